package appraise

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

const remedyConfig = "boot with a config that the manifest allows"

// checkConfig holds the config's fields against the manifest's constraints: a
// hostile value is refused although its hash is honestly claimed (DESIGN
// section 4).
func (a *appraisal) checkConfig(m *manifest.Manifest) {
	c, sub := &a.ev.Config, result.SubConfig
	oneOf(a, "config.role", m.Config.Roles, c.Role, "the role is not allowed")
	if c.Platform != "" {
		a.equal(sub, "config.platform", c.Platform, evidence.PlatformOf(a.ev.CPU.Type), "the config is for another kind of machine", "start the machine as its config says")
	}
	oneOf(a, "config.gpus.mode", m.Config.GPUModes, c.GPUs.Mode, "the GPU mode is not allowed")
	oneOf(a, "config.network_id", m.Config.NetworkIDs, c.NetworkID, "the network is not allowed")
	oneOf(a, "config.registry", m.Config.Registries, c.Registry, "the registry is not allowed")
	a.checkInitBlock(m)
	a.checkSealer(m)
	kinds, digests := make([]string, 0, 4), make([]digest.SHA256, 0, 4)
	var engine *manifest.Engine
	for i := range m.Engines {
		e := &m.Engines[i]
		kinds = append(kinds, e.Kind)
		if e.Kind != c.Engine.Kind {
			continue
		}
		digests = append(digests, e.ImageDigest)
		if engine == nil || e.ImageDigest == c.Engine.Verity.Root {
			engine = e
		}
	}
	oneOf(a, "config.engine.kind", kinds, c.Engine.Kind, "the engine is not allowed")
	oneOf(a, "config.engine.image_digest", digests, c.Engine.Verity.Root, "the engine's image is not one of the manifest's")
	if engine == nil {
		a.fail(sub, "config.engine.args", "an engine of the manifest", quoteEmpty(truncate(c.Engine.Kind, 64)), "no rules for this engine's arguments", remedyConfig)
		return
	}
	if bad, ok := argFault(engine.Args, c.Engine.Args); !ok {
		a.fail(sub, "config.engine.args", argText(engine.Args), quoteEmpty(bad), "an engine argument is not allowed", remedyConfig)
		return
	}
	a.pass(sub, "config.engine.args", strings.Join(c.Engine.Args, " "))
}

// checkInitBlock checks that the chain which a config believes is one that the
// manifest allows: what a hand-over takes from the registry's state is true on
// a chain of the host's own making as well.
func (a *appraisal) checkInitBlock(m *manifest.Manifest) {
	c := a.ev.Config.InitBlock
	if c == nil {
		return
	}
	text := func(b manifest.MasterBlock) string {
		return fmt.Sprintf("%d, root %s, file %s", b.Seqno, b.RootHash, b.FileHash)
	}
	got := manifest.MasterBlock(*c)
	if slices.Contains(m.Config.InitBlocks, got) {
		a.pass(result.SubConfig, "config.init_block", text(got))
		return
	}
	allowed := []string{"none"}
	if len(m.Config.InitBlocks) > 0 {
		allowed = allowed[:0]
	}
	for _, b := range m.Config.InitBlocks {
		allowed = append(allowed, text(b))
	}
	a.fail(result.SubConfig, "config.init_block", strings.Join(allowed, " or "), text(got), "the block that the chain is proven from is not one of the manifest's", remedyConfig)
}

// checkSealer checks that the enclave which a config trusts with sealed keys is
// one that the manifest allows: an operator's own would hand them to him.
func (a *appraisal) checkSealer(m *manifest.Manifest) {
	c := a.ev.Config.Sealer
	if c == nil {
		return
	}
	text := func(signer digest.SHA256, product, svn uint16) string {
		return fmt.Sprintf("signer %s, product %d, version %d or later", signer, product, svn)
	}
	got := text(c.Signer, c.Product, c.MinSVN)
	var allowed []string
	for _, s := range m.Config.Sealers {
		if s.Signer == c.Signer && s.Product == c.Product && s.MinSVN <= c.MinSVN {
			a.pass(result.SubConfig, "config.sealer", got)
			return
		}
		allowed = append(allowed, text(s.Signer, s.Product, s.MinSVN))
	}
	if len(allowed) == 0 {
		allowed = []string{"none"}
	}
	a.fail(result.SubConfig, "config.sealer", strings.Join(allowed, " or "), got, "the sealing enclave is not one of the manifest's", remedyConfig)
}

// checkModels checks that each model that the machine serves is one of the
// manifest's, by name and by content.
func (a *appraisal) checkModels(m *manifest.Manifest) {
	for _, c := range a.ev.Config.ServedModels() {
		a.checkModel(m, &c)
	}
}

func (a *appraisal) checkModel(m *manifest.Manifest, c *evidence.ConfigModel) {
	var names, roots []string
	for _, k := range m.Models {
		names = append(names, k.Name)
		if k.Name == c.Name {
			roots = append(roots, k.VerityRoot.String())
		}
	}
	if len(roots) == 0 { // show what would have been right
		for _, k := range m.Models {
			roots = append(roots, k.VerityRoot.String())
		}
	}
	in := func(id string, allowed []string, got, reason string) {
		if slices.Contains(allowed, got) {
			a.pass(result.SubModel, id, got)
			return
		}
		a.fail(result.SubModel, id, oneOfText(allowed), quoteEmpty(got), reason, "serve a model that the manifest names, unchanged")
	}
	in("model.name", names, c.Name, "the model is not one of the manifest's")
	in("model.verity_root", roots, c.Verity.Root.String(), "the model's content differs")
}

// oneOf checks that a value is in an allow list; an empty list allows
// nothing.
func oneOf[T comparable](a *appraisal, id string, allowed []T, got T, reason string) {
	if slices.Contains(allowed, got) {
		a.pass(result.SubConfig, id, textOf(got))
		return
	}
	text := make([]string, len(allowed))
	for i, v := range allowed {
		text[i] = quoteEmpty(textOf(v))
	}
	a.fail(result.SubConfig, id, oneOfText(text), quoteEmpty(truncate(textOf(got), 128)), reason, remedyConfig)
}

// textOf is fmt.Sprint, without its detours for what a config has.
func textOf(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case int32:
		return strconv.Itoa(int(v))
	case digest.SHA256:
		return v.String()
	}
	return fmt.Sprint(v)
}

// oneOfText shows an allow list; an empty one allows nothing.
func oneOfText(allowed []string) string {
	if len(allowed) == 0 {
		return "none"
	}
	return strings.Join(allowed, " or ")
}

func quoteEmpty(s string) string {
	if s == "" {
		return `""`
	}
	return s
}

// argFault returns the first argument that the rules do not allow; ok says that
// they allow all. Arguments are flags, each followed by its value where its rule
// has one; nothing is taken twice.
func argFault(rules []manifest.ArgRule, args []string) (bad string, ok bool) {
	used := map[string]bool{}
	for i := 0; i < len(args); i++ {
		flag := args[i]
		k := slices.IndexFunc(rules, func(r manifest.ArgRule) bool { return r.Flag == flag })
		if k < 0 {
			return truncate(flag, 64), false
		}
		if used[flag] {
			return flag + " twice", false
		}
		used[flag] = true
		r := rules[k]
		if r.Kind == manifest.ArgNone {
			continue
		}
		i++
		if i == len(args) {
			return flag + " without a value", false
		}
		if !valueAllowed(r, args[i]) {
			return flag + " " + truncate(args[i], 64), false
		}
	}
	return "", true
}

func valueAllowed(r manifest.ArgRule, v string) bool {
	switch r.Kind {
	case manifest.ArgEnum:
		return slices.Contains(r.Values, v)
	case manifest.ArgInt:
		n, err := strconv.ParseInt(v, 10, 64)
		return err == nil && strconv.FormatInt(n, 10) == v && n >= r.Min && n <= r.Max
	}
	return false
}

// argText writes rules as "--ctx-size 128..4096, --verbose".
func argText(rules []manifest.ArgRule) string {
	var out []string
	for _, r := range rules {
		switch r.Kind {
		case manifest.ArgInt:
			out = append(out, fmt.Sprintf("%s %d..%d", r.Flag, r.Min, r.Max))
		case manifest.ArgEnum:
			out = append(out, r.Flag+" "+strings.Join(r.Values, "|"))
		default:
			out = append(out, r.Flag)
		}
	}
	if len(out) == 0 {
		return "no arguments"
	}
	return strings.Join(out, ", ")
}
