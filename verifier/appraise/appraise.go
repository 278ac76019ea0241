package appraise

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// RemedyEncoding is the remedy where what was parsed cannot be written again.
const RemedyEncoding = "send the evidence as the machine gave it, unchanged"

// mayBeSkipped are the checks without which evidence can be accepted: those
// that the caller's options switch on. Any other skipped check refuses.
var mayBeSkipped = []string{"nonce.challenge", "tls.spki"}

// Appraise holds evidence against the options. It makes every check that it
// can, and accepts only if all of them passed. The result is never nil.
func Appraise(ev *evidence.Evidence, o *Options) *result.Result {
	a := &appraisal{ev: ev, o: o, now: now(o), subs: map[string]*[]result.Check{}, roots: TestRoots(o.CPUs, o.GPUs)}
	r := &result.Result{Time: a.now.UTC().Truncate(time.Second), Claims: ev.Claims, TestRoots: a.roots,
		Measurements: map[string]string{}, Submods: map[string]*result.Submod{}}
	for _, n := range []string{result.SubCPU, result.SubImage, result.SubConfig, result.SubModel} {
		a.subs[n] = lists.Get().(*[]result.Check)
	}
	if h, err := hashOf(ev, o); err == nil {
		r.EvidenceSHA256 = h
	} else {
		a.fail(result.SubCPU, "evidence.parse", "evidence that can be encoded", oneLine(err), "evidence cannot be encoded", RemedyEncoding)
	}
	if o.Policy == nil {
		a.fail(result.SubCPU, "policy.missing", "a policy", "none", "nothing is accepted without a policy", "give a policy")
		return a.finish(r)
	}
	r.PolicySHA256 = o.PolicySHA256
	if r.PolicySHA256.IsZero() {
		h, err := o.Policy.Hash()
		if err != nil {
			a.fail(result.SubCPU, "policy.missing", "a policy that can be hashed", oneLine(err), "the policy has no identity", "correct the policy")
			return a.finish(r)
		}
		r.PolicySHA256 = h
	}
	r.NotAfter = a.now.Add(verdictLife(o.Policy))
	a.checkRoots(result.SubCPU)
	a.checkProfile()
	a.checkNonce()
	a.checkClaims()
	r.Stages = a.checkStages()
	a.checkGPUs()
	if m := a.checkAgainstManifests(r); m != nil {
		r.Manifest = &result.ManifestRef{SHA256: m.SHA256, Name: m.Manifest.Image.Name, Version: m.Manifest.Image.Version}
	}
	a.checkRules(r)
	return a.finish(r)
}

// verdictLife is the longest that a verdict lives: what the policy says, and an
// hour at most (DESIGN section 2).
func verdictLife(p *policy.Policy) time.Duration {
	return time.Duration(min(p.Freshness.VerdictSeconds, policy.MaxVerdictSeconds)) * time.Second
}

func hashOf(ev *evidence.Evidence, o *Options) (digest.SHA256, error) {
	if !o.EvidenceSHA256.IsZero() {
		return o.EvidenceSHA256, nil
	}
	return ev.Hash()
}

// OpenManifests opens manifests under the policy's rules. Where the policy
// names a registry, whether a manifest is accepted is decided at each
// appraisal, by what the registry says then; where it names a log, the proofs
// are verified here, and each appraisal says what they showed. What cannot be
// opened is an error for each, beside those that can.
func OpenManifests(p *policy.Policy, published []manifest.Published) ([]*manifest.Verified, error) {
	var out []*manifest.Verified
	var errs []error
	for i := range published {
		e := published[i].Envelope
		v, err := manifest.Read(e, p.Manifests.Keys)
		if err == nil && p.Manifests.Registry == nil {
			v, err = manifest.Open(e, p.Trust())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("manifest %d: %w", i, err))
			continue
		}
		v.Inclusion = published[i].Inclusion
		if p.Manifests.Log != nil {
			v.Logged = openLogged(p.Manifests.Log, v.SHA256, v.Inclusion)
		}
		out = append(out, v)
	}
	return out, errors.Join(errs...)
}

func now(o *Options) time.Time {
	switch {
	case !o.Now.IsZero():
		return o.Now
	case o.Clock != nil:
		return o.Clock()
	}
	return time.Now()
}

// appraisal collects the checks of one run.
type appraisal struct {
	ev       *evidence.Evidence
	o        *Options
	now      time.Time
	subs     map[string]*[]result.Check
	cpuFacts any      // of the CPU appraiser, for rules
	gpuFacts []any    // of the GPU appraiser, likewise
	roots    []string // that are not the makers' own
}

// room returns an empty list with room for about as many checks as a submodule
// has.
func room(sub string) *[]result.Check {
	n := 12
	if sub == result.SubCPU {
		n = usualChecks
	}
	list := make([]result.Check, 0, n)
	return &list
}

// lists are those of appraisals that are over: their results have copies.
var lists = sync.Pool{New: func() any { return room(result.SubCPU) }}

const (
	usualChecks = 48
	mostPooled  = 4 * usualChecks
)

// free gives an appraisal's lists back.
func (a *appraisal) free() {
	for _, list := range a.subs {
		if n := cap(*list); usualChecks <= n && n <= mostPooled {
			clear(*list)
			*list = (*list)[:0]
			lists.Put(list)
		}
	}
	a.subs = nil
}

func (a *appraisal) add(sub string, c ...result.Check) {
	if a.subs[sub] == nil {
		a.subs[sub] = room(sub)
	}
	*a.subs[sub] = append(*a.subs[sub], c...)
}

func (a *appraisal) fail(sub, id, expected, actual, reason, remedy string) {
	a.add(sub, result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
}

func (a *appraisal) pass(sub, id, actual string) {
	a.add(sub, result.Check{ID: id, Status: result.Pass, Actual: actual})
}

func (a *appraisal) skip(sub, id, reason string) {
	a.add(sub, result.Check{ID: id, Status: result.Skip, Reason: reason})
}

// equal compares two texts.
func (a *appraisal) equal(sub, id, expected, actual, reason, remedy string) {
	if expected != actual {
		a.fail(sub, id, quoteEmpty(expected), quoteEmpty(actual), reason, remedy)
		return
	}
	a.pass(sub, id, actual)
}

// checkRoots says which roots are not the makers' own. A production policy
// takes none; that the class is no hardware's is policy.Class's decision.
func (a *appraisal) checkRoots(sub string) {
	if len(a.roots) == 0 {
		return
	}
	const id = "policy.test_roots"
	names := strings.Join(a.roots, ", ")
	if a.o.Policy.Environment != policy.Development {
		a.fail(sub, id, "the makers' roots", names, "this appraiser trusts roots that are not the makers' own", "take the test roots out of the configuration")
		return
	}
	a.add(sub, result.Check{ID: id, Status: result.Pass, Actual: names, Reason: "whoever has these roots can make evidence of any hardware: the class is none of hardware's"})
}

// checkProfile repeats what evidence.Parse demands, for evidence that was not
// parsed from bytes.
func (a *appraisal) checkProfile() {
	a.equal(result.SubCPU, "evidence.profile", evidence.Profile, a.ev.Profile, "evidence has another format", "update the guest or the verifier")
	if err := a.ev.Config.Validate(); err != nil {
		a.fail(result.SubConfig, "evidence.config", "a valid config", oneLine(err), "config is out of range", "correct the config")
	}
}

// checkNonce checks that the claims' nonce is that of the contributions, and
// that ours is among them (DESIGN section 2, freshness).
func (a *appraisal) checkNonce() {
	n, err := evidence.NonceOf(a.ev.NonceInputs)
	count := strconv.Itoa(len(a.ev.NonceInputs)) + " values"
	if err != nil {
		a.fail(result.SubCPU, "nonce.inputs", "1 to 64 values, sorted and distinct", count, oneLine(err), "sort the contributions")
	} else {
		a.pass(result.SubCPU, "nonce.inputs", count)
		a.equal(result.SubCPU, "claims.nonce", n.String(), a.ev.Claims.Nonce.String(), "claims carry another nonce than the contributions give", "quote anew")
	}
	switch {
	case len(a.o.Challenges) == 0 && (a.o.RequireChallenge || a.o.Policy.Freshness.RequireChallenge):
		actual := a.o.NoChallenge
		if actual == "" {
			actual = "none given"
		}
		a.fail(result.SubCPU, "nonce.challenge", "a challenge of this appraiser", actual, "evidence answers no challenge", "ask the appraiser for a challenge and quote with it")
	case len(a.o.Challenges) == 0:
		a.skip(result.SubCPU, "nonce.challenge", "no challenge was given to this appraisal")
	default:
		for _, c := range a.o.Challenges {
			if slices.Contains(a.ev.NonceInputs, c) {
				a.pass(result.SubCPU, "nonce.challenge", c.String())
				return
			}
		}
		a.fail(result.SubCPU, "nonce.challenge", join(a.o.Challenges), join(a.ev.NonceInputs), "evidence does not answer the challenge", "quote with this appraiser's challenge")
	}
}

// checkClaims checks that the claims speak of what the evidence carries, and
// of the TLS key that the peer has.
func (a *appraisal) checkClaims() {
	c := &a.ev.Claims
	if h, err := a.ev.Config.Hash(); err != nil {
		a.fail(result.SubConfig, "claims.config_sha256", "a config that can be hashed", oneLine(err), "config cannot be hashed", "correct the config")
	} else {
		a.equal(result.SubConfig, "claims.config_sha256", h.String(), c.ConfigSHA256.String(), "claims carry the hash of another config", "quote over this config")
	}
	a.checkClaimedModel()
	if h, err := evidence.GPUHash(a.ev.GPUs); err != nil {
		a.fail(result.SubCPU, "claims.gpu_evidence_sha256", "GPU evidence that can be hashed", oneLine(err), "GPU evidence cannot be hashed", RemedyEncoding)
	} else {
		a.equal(result.SubCPU, "claims.gpu_evidence_sha256", h.String(), c.GPUEvidenceSHA256.String(), "claims carry the hash of other GPU evidence", "quote over this GPU evidence")
	}
	if c.ReceiptKey.IsZero() || c.TLSSPKISHA256.IsZero() {
		a.fail(result.SubCPU, "claims.keys", "keys", "zero", "claims name no keys", "quote after the keys are made")
	} else {
		a.pass(result.SubCPU, "claims.keys", c.ReceiptKey.String())
	}
	if a.o.TLSSPKI == nil {
		a.skip(result.SubCPU, "tls.spki", "no TLS key was given to this appraisal")
		return
	}
	a.equal(result.SubCPU, "tls.spki", c.TLSSPKISHA256.String(), a.o.TLSSPKI.String(), "the TLS key is not the one in the evidence", "do not send anything: the connection may end elsewhere than in the attested VM")
}

// checkClaimedModel checks that the claims name a model that the machine serves:
// its verdict is for that one, and so is every job that it releases.
func (a *appraisal) checkClaimedModel() {
	var served []string
	for _, m := range a.ev.Config.ServedModels() {
		served = append(served, m.Name+" "+m.Verity.Root.String())
	}
	claimed := a.ev.Claims.Model.Name + " " + a.ev.Claims.Model.VerityRoot.String()
	if !slices.Contains(served, claimed) {
		a.fail(result.SubModel, "claims.model", strings.Join(served, " or "), claimed, "claims and config name different models", "quote over this config")
		return
	}
	a.pass(result.SubModel, "claims.model", claimed)
}

// checkStages holds the record of the boot to its hash in the claims, and
// returns it where it is the one that the supervisor wrote. Evidence without
// one is as good: the record decides nothing (DESIGN section 4, evidence).
func (a *appraisal) checkStages() *evidence.Stages {
	if a.ev.Stages == nil && a.ev.Claims.StagesSHA256 == nil {
		return nil
	}
	const id = "claims.stages_sha256"
	expected, actual := "none", "none"
	if a.ev.Stages != nil {
		h, err := a.ev.Stages.Hash()
		if err != nil {
			a.fail(result.SubCPU, id, "a stage record that can be hashed", oneLine(err), "the stage record cannot be hashed", RemedyEncoding)
			return nil
		}
		expected = h.String()
	}
	if h := a.ev.Claims.StagesSHA256; h != nil {
		actual = h.String()
	}
	a.equal(result.SubCPU, id, expected, actual, "claims carry the hash of another stage record", "give the evidence as it was served")
	if expected != actual {
		return nil
	}
	return a.ev.Stages
}

// modePPCIE is the config's GPU mode in which switches are attested, too.
const modePPCIE = "ppcie"

// checkGPUs checks count and distinctness here, and leaves the rest to the
// GPU appraiser (DESIGN section 2). In protected PCIe the items are GPUs and
// switches, which the appraiser tells apart and counts; there are never fewer
// items than GPUs.
func (a *appraisal) checkGPUs() {
	want, got := a.ev.Config.GPUs.Count, len(a.ev.GPUs)
	if a.ev.Config.GPUs.Mode == modePPCIE && got > want && a.o.GPUs != nil {
		a.pass(result.SubConfig, "gpu.count", fmt.Sprintf("%d GPUs and switches", got))
	} else {
		a.equal(result.SubConfig, "gpu.count", strconv.Itoa(want), strconv.Itoa(got), "evidence has not as many GPUs as the config", "check the machine's GPUs")
	}
	for i := range a.ev.GPUs {
		for j := range i {
			if slices.Equal(a.ev.GPUs[i].Report, a.ev.GPUs[j].Report) || slices.EqualFunc(a.ev.GPUs[i].Chain, a.ev.GPUs[j].Chain, slices.Equal) {
				a.fail(result.SubGPU(i), "gpu.distinct", "a GPU of its own", result.SubGPU(j), "one GPU stands for two", "check the machine's GPUs")
			}
		}
	}
	if len(a.ev.GPUs) > 0 && a.o.GPUs == nil {
		for i := range a.ev.GPUs {
			a.fail(result.SubGPU(i), "gpu.unsupported", "GPU evidence that this appraiser reads", "none", "this appraiser reads no GPU evidence", "use a verifier with GPU support")
		}
	}
}

// finish closes the result: statuses, vectors, and whether it is accepted.
func (a *appraisal) finish(r *result.Result) *result.Result {
	r.Accepted = true
	total := 0
	for name, checks := range a.subs {
		s := &result.Submod{Checks: result.Ordered(*checks)}
		result.Cite(s.Checks)
		good := true
		for i := range s.Checks {
			total++
			if c := &s.Checks[i]; c.Status != result.Pass && (c.Status != result.Skip || !slices.Contains(mayBeSkipped, c.ID)) {
				good = false
			}
		}
		s.Vector = vector(name, r.TrustClass, len(r.TestRoots) > 0, good && len(s.Checks) > 0)
		s.Status = s.Vector.Status()
		r.Submods[name] = s
		r.Accepted = r.Accepted && good && len(s.Checks) > 0
	}
	a.free()
	r.Development = policy.DevelopmentClass(r.TrustClass)
	r.Accepted = r.Accepted && total > 0 && r.Manifest != nil && r.NotAfter.After(a.now)
	r.NotAfter = r.NotAfter.UTC().Truncate(time.Second)
	return r
}

// categories are what the checks of a submodule speak of.
var (
	categories = map[string][]string{
		result.SubCPU:    {result.InstanceIdentity, result.Hardware, result.RuntimeOpaque},
		result.SubImage:  {result.Executables, result.FileSystem},
		result.SubConfig: {result.Configuration},
		result.SubModel:  {result.FileSystem},
	}
	categoriesOfGPU = []string{result.InstanceIdentity, result.Hardware}
)

// vector returns what a submodule's checks say in AR4SI's categories
// (draft-ietf-rats-ar4si, section 2.3). A TPM beside a virtual machine says
// nothing of the hardware, and of the memory only that other guests cannot
// read it: runtime-opaque is a warning, not an affirmation.
func vector(sub, class string, test, good bool) result.Vector {
	cats, ok := categories[sub]
	if !ok {
		cats = categoriesOfGPU
	}
	v := make(result.Vector, len(cats))
	for _, c := range cats {
		switch {
		case !good:
			v[c] = result.ValueContraindicated
		case sub == result.SubCPU && class == policy.ClassVTPM && c == result.Hardware:
		case test && (c == result.Hardware || c == result.InstanceIdentity || c == result.RuntimeOpaque):
			v[c] = result.ValueWarning // whoever has a test root can say this
		case sub == result.SubCPU && class == policy.ClassVTPM && c == result.RuntimeOpaque:
			v[c] = result.ValueWarning
		default:
			v[c] = result.ValueAffirming
		}
	}
	return v
}

func join(ds []digest.SHA256) string {
	if len(ds) == 0 {
		return "none"
	}
	s := make([]string, 0, 4)
	for i, d := range ds {
		if i == 3 && len(ds) > 4 {
			s = append(s, fmt.Sprintf("… %d more", len(ds)-3))
			break
		}
		s = append(s, d.String())
	}
	return strings.Join(s, " ")
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
