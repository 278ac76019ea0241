package demo

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cocoon/hostd/machine"
	"cocoon/image/info"
	"cocoon/internal/bootargs"
	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
	"cocoon/verifier/result"
)

// refusalCase changes one thing of the run.
type refusalCase struct {
	name   string
	what   string
	change func(r *run, v *vm) error
	judge  func(r *run, v vm, st *machine.State, werr error, before []string) (*Refusal, error)
}

var refusalCases = []refusalCase{
	{"initrd", "one file more in the initrd", changeInitrd, judgeEvidence},
	{"root", "one byte in a block of the root file system that boot reads", changeRoot, judgeRoot},
	{"model", "one byte of the model, its pack made anew", changeModel, judgeEvidence},
	{"cmdline", "one word of the kernel command line", changeCmdline, judgeEvidence},
	{"config", "the config names another engine pack", changeEngine, judgeEvidence},
}

// enrolmentCase changes who vouches for the TPM.
var enrolmentCase = refusalCase{"ek_ca", "a software TPM whose endorsement key another CA certified", changeCA, judgeEnrolment}

func (r *run) refusals(ctx context.Context) error {
	r.begin("refusals", "the same again with one thing changed: each must be refused")
	for _, c := range refusalCases {
		got, err := r.refuse(ctx, c)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		r.rep.Refusals = append(r.rep.Refusals, *got)
		r.showRefusal(got)
	}
	got, err := r.refuse(ctx, enrolmentCase)
	if err != nil {
		return fmt.Errorf("case %s: %w", enrolmentCase.name, err)
	}
	r.also(got)
	return nil
}

func (r *run) also(got *Refusal) {
	r.rep.AlsoRefused = append(r.rep.AlsoRefused, *got)
	r.showRefusal(got)
}

func (r *run) showRefusal(got *Refusal) {
	r.note("%-8s refused at %s by %s: %s", got.Case, got.Step, strings.Join(got.By, ", "), got.Code)
	r.note("         expected %s, actual %s", short(got.Expected), short(got.Actual))
}

func (r *run) refuse(ctx context.Context, c refusalCase) (*Refusal, error) {
	r.note("%s: %s", c.name, c.what)
	v, err := r.unchanged("demo-" + strings.ReplaceAll(c.name, "_", "-"))
	if err != nil {
		return nil, err
	}
	if err := c.change(r, &v); err != nil {
		return nil, err
	}
	s, err := r.spec(v)
	if err != nil {
		return nil, err
	}
	before := archived(filepath.Join(r.archive, "refused"))
	if _, err := r.host.start(ctx, s); err != nil {
		return nil, err
	}
	defer r.host.stop(v.name)
	st, werr := r.host.wait(ctx, v.name, "serve", bootLimit)
	if werr == nil {
		return nil, fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "the changed machine serves")
	}
	got, err := c.judge(r, v, st, werr, before)
	if err != nil {
		r.tail(v.name)
		return nil, fmt.Errorf("%w (the machine said: %w)", err, werr)
	}
	got.Case = c.name
	if got.Expected == got.Actual || got.Expected == "" || got.Actual == "" {
		return nil, fault.Mismatch(fault.ExitInternal, "demo.refusal", "a refusal that shows a difference", "two values", got.Expected+" and "+got.Actual, "please report it")
	}
	return got, nil
}

// overlay makes a directory of links to the image's files, in which one can
// be replaced.
func (r *run) overlay(v *vm, replace string) (string, error) {
	dir := r.temp("vm", v.name, "image")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("making directory: %w", err)
	}
	for _, name := range []string{info.Kernel, info.Initrd, info.RootDisk, info.Cmdline} {
		if name == replace {
			continue
		}
		if err := os.Symlink(filepath.Join(r.imageDir(), name), filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("linking image: %w", err)
		}
	}
	v.imageDir = dir
	return filepath.Join(dir, replace), nil
}

func changeInitrd(r *run, v *vm) error {
	dst, err := r.overlay(v, info.Initrd)
	if err != nil {
		return err
	}
	return tamperInitrd(filepath.Join(r.imageDir(), info.Initrd), dst)
}

// changedWord is what the changed command line says in addition.
const changedWord = " loglevel=5"

func changeCmdline(r *run, v *vm) error {
	dst, err := r.overlay(v, info.Cmdline)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(r.imageDir(), info.Cmdline))
	if err != nil {
		return fmt.Errorf("reading command line: %w", err)
	}
	return writeFile(dst, append(b, changedWord...))
}

func changeRoot(r *run, v *vm) error {
	dst, err := r.overlay(v, info.RootDisk)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(r.imageDir(), info.Cmdline))
	if err != nil {
		return fmt.Errorf("reading command line: %w", err)
	}
	root, err := bootargs.Parse(string(b))
	if err != nil {
		return err
	}
	r.rootExpected, r.rootActual, r.rootVerity, err = tamperRoot(filepath.Join(r.imageDir(), info.RootDisk), dst, root)
	return err
}

func changeModel(r *run, v *vm) error {
	// The middle of the file is weights of the model.
	weights, err := os.ReadFile(filepath.Join(r.Root, "image", "models", "chat.gguf"))
	if err != nil {
		return fmt.Errorf("reading model: %w", err)
	}
	dst := r.temp("vm", v.name, "model.img")
	v.config.Model.Verity, err = tamperPack(v.model, dst, v.config.Model.Verity, weights[len(weights)/2:][:64])
	v.model = dst
	return err
}

func changeEngine(r *run, v *vm) error {
	var err error
	dst := r.temp("vm", v.name, "engine.img")
	v.config.Engine.Verity, err = growPack(v.engine, dst, v.config.Engine.Verity)
	v.engine = dst
	return err
}

func changeCA(r *run, v *vm) error {
	v.tpmCA = "other"
	return nil
}

// judgeEvidence is for machines that came up and offered honest evidence of
// what they are: the verifier must have refused it, and the client, offered
// the same evidence, must refuse it with the same code.
func judgeEvidence(r *run, v vm, _ *machine.State, _ error, before []string) (*Refusal, error) {
	name, err := only(filepath.Join(r.archive, "refused"), before...)
	if err != nil {
		return nil, err
	}
	res, _, err := readResult(name + ".result.json")
	if err != nil {
		return nil, err
	}
	doc, err := os.ReadFile(name + ".evidence.json")
	if err != nil {
		return nil, fmt.Errorf("reading evidence: %w", err)
	}
	c := strings.TrimPrefix(v.name, "demo-")
	if err := writeFile(r.keep(dirRefusals, c+".evidence.json"), doc); err != nil {
		return nil, err
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		return nil, err
	}
	own, err := r.trust.Result(context.Background(), ev, nil)
	if err != nil {
		return nil, err
	}
	return agree(c, res, own)
}

// agree takes the first failed check of the verifier's and demands that the
// client failed the same one on the same values.
func agree(name string, verifier, client *result.Result) (*Refusal, error) {
	vf, cf := primary(verifier.Failed()), primary(client.Failed())
	if vf == nil || cf == nil || verifier.Accepted || client.Accepted {
		return nil, fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "evidence of changed case %s: not refused by both", name)
	}
	if *vf != *cf {
		return nil, fault.Mismatch(fault.ExitInternal, "demo.refusal", "verifier's and client's first failed check", vf.ID, cf.ID, "please report it")
	}
	return &Refusal{Step: "verdict", Code: vf.ID, Expected: vf.Expected, Actual: vf.Actual, By: []string{"verifier", "client"}}, nil
}

// primary picks the check that names the changed part, before registers and
// the registry's lists, which merely follow from it.
func primary(failed []result.Check) *result.Check {
	for _, c := range failed {
		if !strings.HasPrefix(c.ID, "tpm.") && !strings.HasPrefix(c.ID, "pcr.") && !strings.HasSuffix(c.ID, ".registry") {
			return &c
		}
	}
	if len(failed) > 0 {
		return &failed[0]
	}
	return nil
}

// judgeRoot is for the machine whose root file system is corrupt: the console
// must show dm-verity's refusal, and no supervisor may have come up.
func judgeRoot(r *run, v vm, st *machine.State, werr error, _ []string) (*Refusal, error) {
	log, err := r.host.console(v.name)
	if err != nil {
		return nil, err
	}
	if err := writeFile(r.keep(dirRefusals, "root.console.log"), log); err != nil {
		return nil, err
	}
	code, err := judgeConsole(log)
	if err != nil {
		return nil, err
	}
	if st != nil && len(st.Guest.Stages) > 0 {
		return nil, fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "the supervisor came up on a corrupt root file system")
	}
	return &Refusal{Step: "boot", Code: code, Expected: r.rootExpected, Actual: r.rootActual, By: []string{"guest"}}, nil
}

// judgeConsole reads the guest's own code for a corrupt root file system.
func judgeConsole(log []byte) (string, error) {
	if !bytes.Contains(log, []byte("device-mapper: verity:")) || !bytes.Contains(log, []byte("corrupted")) {
		return "", fault.New(fault.ExitInternal, "demo.refusal", "see the console", "the console shows no dm-verity corruption")
	}
	if bytes.Contains(log, []byte("stage=mounts")) {
		return "", fault.New(fault.ExitInternal, "demo.not_refused", "this is a serious defect; please report it", "the supervisor came up on a corrupt root file system")
	}
	return "boot.verity_corrupted", nil
}

// judgeEnrolment is for the TPM of another CA: the verifier certifies no
// attestation key, so there is no evidence to offer.
func judgeEnrolment(r *run, v vm, st *machine.State, werr error, before []string) (*Refusal, error) {
	if after := archived(filepath.Join(r.archive, "refused")); len(after) != len(before) {
		return nil, fault.New(fault.ExitInternal, "demo.refusal", "see the logs", "a machine without a certified key offered evidence")
	}
	for _, f := range fault.All(werr) {
		if f.Expected != "" && strings.HasPrefix(f.Code, "tpm.") {
			got := &Refusal{Step: "enrol", Code: f.Code, Expected: f.Expected, Actual: f.Actual, By: []string{"verifier"}}
			return got, writeJSON(r.keep(fileEnrolment), got)
		}
	}
	return nil, fault.New(fault.ExitInternal, "demo.refusal", "see the logs", "the machine did not end at enrolment: %w", werr)
}
