package audit

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
	"cocoon/measurements/manifest"
	"cocoon/measurements/pcr"
	"cocoon/measurements/release"
	"cocoon/measurements/snp"
)

// Limits of the files that are measured in memory, in bytes.
const (
	maxKernel   = 128 << 20
	maxInitrd   = 512 << 20
	maxFirmware = 64 << 20
)

// measured are the files that firmware measures, read from the release.
type measured struct {
	kernel, initrd []byte
	cmdline        string
	image          *launch.Image
	firmware       map[digest.SHA256][]byte
	read           map[digest.SHA256]*launch.Firmware // what was read of them
}

// components reads a firmware file, which takes a while, once.
func (m *measured) components(name string, sum digest.SHA256) (*launch.Firmware, error) {
	if m.read[sum] == nil {
		f, err := launch.ReadFirmware(name, m.firmware[sum])
		if err != nil {
			return nil, err
		}
		m.read[sum] = f
	}
	f := *m.read[sum]
	f.Name = name
	return &f, nil
}

// checkRegisters computes every register again, from the files of the
// release, and holds it against the manifest.
func (a *audit) checkRegisters() {
	m, err := a.measure()
	if err != nil {
		for _, tee := range a.tees() {
			a.add(Row{Check: "register." + tee, Name: "files", Status: Fail, Reason: "cannot be computed: " + oneLine(err),
				Means: "kernel, initrd, command line or firmware is missing or damaged", Remedy: "fetch them again"})
		}
		return
	}
	if t := a.v.Manifest.TPM; t != nil {
		a.checkTPM(t, m)
	} else {
		a.skip("register.tpm", "TPM", "the manifest has no section for it", "")
	}
	if t := a.v.Manifest.TDX; t != nil {
		a.checkTDX(t, m)
	} else {
		a.skip("register.tdx", "TDX", "the manifest has no section for it", "")
	}
	if s := a.v.Manifest.SNP; s != nil {
		a.checkSNP(s, m)
	} else {
		a.skip("register.snp", "SEV-SNP", "the manifest has no section for it", "")
	}
}

func (a *audit) tees() []string {
	var out []string
	for tee, has := range map[string]bool{"tpm": a.v.Manifest.TPM != nil, "tdx": a.v.Manifest.TDX != nil, "snp": a.v.Manifest.SNP != nil} {
		if has {
			out = append(out, tee)
		}
	}
	slices.Sort(out)
	return out
}

func (a *audit) measure() (*measured, error) {
	m := &measured{firmware: map[digest.SHA256][]byte{}, read: map[digest.SHA256]*launch.Firmware{}}
	var errs [4]error
	m.kernel, errs[0] = ReadAll(a.o.Source, kernelFile, maxKernel)
	m.initrd, errs[1] = ReadAll(a.o.Source, initrdFile, maxInitrd)
	cmdline, err := ReadAll(a.o.Source, cmdlineFile, pcr.MaxCmdline)
	m.cmdline, errs[2] = string(cmdline), err
	if err := errors.Join(errs[:3]...); err != nil {
		return nil, err
	}
	m.image, errs[0] = launch.ReadImage(m.kernel, m.initrd, m.cmdline)
	for _, f := range a.files {
		if path.Dir(f.Name) != release.FirmwareDir {
			continue
		}
		b, err := ReadAll(a.o.Source, f.Name, maxFirmware)
		if err != nil {
			errs[3] = err
			continue
		}
		m.firmware[digest.Sum256(b)] = b
	}
	return m, errors.Join(errs[:]...)
}

// component is a row for a part of a register.
func (a *audit) component(check, name, file, expected, actual string) {
	a.equal(Row{Check: check, Name: name, Expected: expected, Actual: actual, Reason: file + " does not give the value in the manifest",
		Means: "the file is not the one that was measured for the release", Remedy: "fetch the file again"})
}

// register is a row for a whole register.
func (a *audit) register(check, name, expected, actual, because string) {
	a.equal(Row{Check: check, Name: name, Expected: expected, Actual: actual, Reason: "the register that follows from the files is another: " + because + " differs",
		Means: "a machine that boots these files is refused by everybody who holds it against the manifest", Remedy: "fetch the files again"})
}

// differing lists what of a register's parts differs, for a sentence.
func differing(parts map[string]bool) string {
	var out []string
	for name, same := range parts {
		if !same {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return "the way that this version computes it"
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (a *audit) checkTPM(t *manifest.TPM, m *measured) {
	const check = "register.tpm"
	initrd := digest.Sum256(m.initrd)
	a.component(check, "kernel, Authenticode SHA-256", kernelFile, t.Components.KernelAuthenticodeSHA256.String(), m.image.Kernel.SHA256.String())
	a.component(check, "initrd, SHA-256", initrdFile, t.Components.InitrdSHA256.String(), initrd.String())
	rec, err := pcr.Recorded()
	if err != nil {
		a.add(Row{Check: check, Name: "recordings", Status: Fail, Reason: oneLine(err)})
		return
	}
	for _, f := range t.Firmwares {
		_, have := m.firmware[f.SHA256]
		a.firmware(check, f.Name, f.SHA256, have)
		got, err := pcr.Predict(f.Firmware, pcr.Components{KernelAuthenticodeSHA256: m.image.Kernel.SHA256, InitrdSHA256: initrd}, m.cmdline)
		if err != nil {
			a.add(Row{Check: check, Name: f.Name, Status: Fail, Reason: "cannot be computed: " + oneLine(err), Means: "the command line is damaged", Remedy: "fetch the files again"})
			continue
		}
		known, source, knownErr := a.firmwareRegisters(rec, f, m)
		parts := map[int]map[string]bool{
			pcr.BootManager: {kernelFile: m.image.Kernel.SHA256 == t.Components.KernelAuthenticodeSHA256},
			pcr.LoaderInput: {initrdFile: initrd == t.Components.InitrdSHA256, cmdlineFile: m.cmdline == a.v.Manifest.Boot.Cmdline},
		}
		for _, n := range f.PCRs.Numbers() {
			name := fmt.Sprintf("%s PCR %d", f.Name, n)
			switch recorded := map[int]digest.SHA256{pcr.Firmware0: known.PCR0, pcr.SecureBoot: known.PCR7}[n]; {
			case n != pcr.Firmware0 && n != pcr.SecureBoot:
				a.register(check, name, f.PCRs[n].String(), got[n].String(), differing(parts[n]))
			case knownErr != nil:
				a.skip(check, name, "it was watched, not computed, and this program has no recording of the firmware", "cocoon measure record")
			default:
				a.register(check, name, f.PCRs[n].String(), recorded.String(), source)
			}
		}
	}
}

// firmwareRegisters returns PCR 0 and 7 of a firmware: computed from its file
// where that can be done, else as this program has them recorded.
func (a *audit) firmwareRegisters(rec *pcr.Recordings, f manifest.TPMFirmware, m *measured) (pcr.Firmware, string, error) {
	if _, have := m.firmware[f.SHA256]; have {
		if l, err := m.components(f.Name, f.SHA256); err == nil {
			if c, err := pcr.Compute(l); err == nil {
				return c, "the firmware file", nil
			}
		}
	}
	known, err := rec.Find(f.SHA256)
	return known, "the recording that this program has", err
}

// firmware reports whether the release has the file that registers are for.
func (a *audit) firmware(check, name string, sum digest.SHA256, have bool) {
	if have {
		a.pass(check, name+", firmware file", sum.String())
		return
	}
	a.add(Row{Check: check, Name: name + ", firmware file", Status: Fail, Expected: sum.String(), Actual: "no such file in " + release.FirmwareDir,
		Reason: "the firmware that the registers are computed for is not in the release", Means: "the firmware file is missing or damaged", Remedy: "fetch it again"})
}

func (a *audit) checkTDX(t *manifest.TDX, m *measured) {
	const check = "register.tdx"
	initrd := digest.Sum384(m.initrd)
	a.component(check, "kernel, Authenticode SHA-384", kernelFile, t.Components.KernelAuthenticodeSHA384.String(), m.image.Kernel.SHA384.String())
	a.component(check, "initrd, SHA-384", initrdFile, t.Components.InitrdSHA384.String(), initrd.String())
	for i := range t.Firmwares {
		f := &t.Firmwares[i]
		_, have := m.firmware[f.SHA256]
		a.firmware(check, f.Name, f.SHA256, have)
		if !have {
			continue
		}
		var want manifest.TDXFirmware
		fw, err := m.components(f.Name, f.SHA256)
		if err == nil {
			want, err = manifest.NewTDXFirmware(m.image, fw)
		}
		if err != nil {
			a.add(Row{Check: check, Name: f.Name, Status: Fail, Reason: "cannot be computed: " + oneLine(err)})
			continue
		}
		a.register(check, f.Name+" MRTD", fmt.Sprint(f.MRTD), fmt.Sprint(want.MRTD), "the firmware")
		parts := []map[string]bool{
			{f.Name: false},
			{kernelFile: m.image.Kernel.SHA384 == t.Components.KernelAuthenticodeSHA384},
			{initrdFile: initrd == t.Components.InitrdSHA384, cmdlineFile: m.cmdline == a.v.Manifest.Boot.Cmdline},
		}
		for n, pair := range [][2]*manifest.Register{{&f.RTMR0, &want.RTMR0}, {&f.RTMR1, &want.RTMR1}, {&f.RTMR2, &want.RTMR2}} {
			a.events(check, fmt.Sprintf("%s RTMR%d", f.Name, n), pair[0], pair[1], differing(parts[n]))
		}
	}
}

// events compares two registers and names the first event that differs.
func (a *audit) events(check, name string, want, got *manifest.Register, because string) {
	text := func(r *manifest.Register) string {
		if r.Value != nil {
			return r.Value.String()
		}
		return fmt.Sprintf("%d events, some of the host", len(r.Events))
	}
	if slices.Equal(want.Events, got.Events) {
		a.pass(check, name, text(got))
		return
	}
	for i := range max(len(want.Events), len(got.Events)) {
		switch {
		case i >= len(want.Events):
			because += fmt.Sprintf("; event %d, %s, is one too many", i, got.Events[i].Name)
		case i >= len(got.Events):
			because += fmt.Sprintf("; event %d, %s, is missing", i, want.Events[i].Name)
		case want.Events[i] != got.Events[i]:
			because += fmt.Sprintf("; event %d, %s", i, want.Events[i].Name)
		default:
			continue
		}
		break
	}
	a.add(Row{Check: check, Name: name, Status: Fail, Expected: text(want), Actual: text(got), Reason: "the register that follows from the files is another: " + because,
		Means: "a machine that boots these files is refused by everybody who holds it against the manifest", Remedy: "fetch the files again"})
}

func (a *audit) checkSNP(s *manifest.SNP, m *measured) {
	const check = "register.snp"
	k := snp.HashKernel(m.kernel, m.initrd, m.cmdline)
	a.component(check, "kernel, SHA-256", kernelFile, s.Components.Kernel.String(), k.Kernel.String())
	a.component(check, "initrd, SHA-256", initrdFile, s.Components.Initrd.String(), k.Initrd.String())
	a.component(check, "command line, SHA-256", cmdlineFile, s.Components.Cmdline.String(), k.Cmdline.String())
	for i := range s.Firmwares {
		f := &s.Firmwares[i]
		_, have := m.firmware[f.SHA256]
		a.firmware(check, f.Name, f.SHA256, have)
		if !have {
			continue
		}
		read, err := m.components(f.Name, f.SHA256)
		if err == nil && read.SNP == nil {
			err = errors.New("the firmware is not for SEV-SNP")
		}
		if err != nil {
			a.add(Row{Check: check, Name: f.Name, Status: Fail, Reason: "cannot be computed: " + oneLine(err)})
			continue
		}
		fw := *read.SNP
		for _, shape := range f.Shapes {
			name := fmt.Sprintf("%s %s 1 vCPU", f.Name, strings.TrimSpace(string(shape.VMM)+" "+shape.VCPUType))
			one := snp.Shape{VMM: shape.VMM, VCPUs: 1, VCPUType: shape.VCPUType, Features: shape.Features}
			want, err1 := snp.Measure(f.Firmware, &s.Components, one)
			got, err2 := snp.Measure(fw, k, one)
			if err := errors.Join(err1, err2); err != nil {
				a.add(Row{Check: check, Name: name, Status: Fail, Reason: "cannot be computed: " + oneLine(err)})
				continue
			}
			a.register(check, name, want.String(), got.String(), differing(map[string]bool{
				kernelFile: k.Kernel == s.Components.Kernel, initrdFile: k.Initrd == s.Components.Initrd, cmdlineFile: k.Cmdline == s.Components.Cmdline}))
		}
	}
}
