package boottest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/hostd/proc"
	"cocoon/hostd/record"
	"cocoon/hostd/swtpm"
	"cocoon/image/info"
	"cocoon/image/uki"
	"cocoon/internal/imagetest"
	"cocoon/measurements/digest"
	"cocoon/measurements/pcr"
	"cocoon/measurements/pe"
)

// envSoak names the variable that asks for all shapes of machines.
const envSoak = "COCOON_SOAK"

// firstLine begins the supervisor's first line on the console, and nothing
// that the initrd prints.
const firstLine = "cocoon: s"

// shape is a machine and the way it boots.
type shape struct {
	cpus, mem int // mem in MiB
	unified   bool
	soak      bool // in the full matrix only
}

func (s shape) String() string {
	way := "direct boot" // kernel, initrd and command line
	if s.unified {
		way = "unified kernel image"
	}
	return fmt.Sprintf("%s with %d CPUs and %d MiB", way, s.cpus, s.mem)
}

// TestMeasuredBoot boots the image under OVMF with a software TPM and holds
// every register and every event that can be predicted from the files against
// what the TPM was told and holds at the moment when the kernel takes over.
// PCR 0 and 7 are recorded per firmware file; PCR 1 depends on the machine
// and is listed by component.
func TestMeasuredBoot(t *testing.T) {
	b := imagetest.Find(t)
	im, err := info.LoadImage(b.Image)
	if err != nil {
		t.Fatal(err)
	}
	shapes := []shape{
		{cpus: 2, mem: 1024},
		{cpus: 2, mem: 1024, unified: true},
		{cpus: 1, mem: 1024, soak: true},
		{cpus: 1, mem: 512, soak: true},
		{cpus: 2, mem: 512, soak: true},
		{cpus: 1, mem: 512, unified: true, soak: true},
	}
	host := make(map[bool][][]record.Extend) // PCR 1 of each machine, by way of booting
	for _, s := range shapes {
		t.Run(s.String(), func(t *testing.T) {
			if s.soak && os.Getenv(envSoak) == "" && os.Getenv(enable) == "" {
				t.Skipf("only with %s=1 or %s=1", envSoak, enable)
			}
			want := predict(t, b, im, s)
			w := watchBoot(t, b, im, s)
			compareBoot(t, want, w)
			host[s.unified] = append(host[s.unified], of(w.extends, pcr.HostPlatform))
		})
	}
	for _, machines := range host {
		for _, m := range machines[min(1, len(machines)):] {
			if len(m) != len(machines[0]) {
				t.Errorf("PCR 1 has %d components in one machine and %d in another", len(m), len(machines[0]))
			}
		}
	}
}

// component is one predicted event; without a digest its place alone is.
type component struct {
	name   string
	digest digest.SHA256
}

// prediction is all that follows from the files.
type prediction struct {
	values pcr.Values
	events map[int][]component
}

func text(s string) component {
	return component{fmt.Sprintf("action %q", s), digest.Sum256([]byte(s))}
}

// predict computes the events of each register (TCG PC Client Platform
// Firmware Profile 1.06, sections 3.3.4 and 10.4) and checks that they give
// what package pcr predicts.
func predict(t *testing.T, b imagetest.Build, im info.Image, s shape) prediction {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(b.Image, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	firmware, err := os.ReadFile(b.Tools.OVMF())
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := pcr.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	fw, err := recorded.Find(digest.Sum256(firmware))
	if err != nil {
		t.Fatalf("%v; record it: cocoon measure record", err)
	}
	kernel, initrd := read(info.Kernel), read(info.Initrd)
	values, err := pcr.Predict(fw, measure(t, kernel, initrd, im.Cmdline), im.Cmdline)
	if err != nil {
		t.Fatal(err)
	}
	separator := component{"separator", digest.Sum256(make([]byte, 4))}
	authenticode := func(name string, image []byte) component {
		d, err := pe.Authenticode256(image)
		if err != nil {
			t.Fatal(err)
		}
		return component{"Authenticode hash of " + name, d}
	}
	action := text("Calling EFI Application from Boot Option")
	p := prediction{values: values, events: map[int][]component{
		2: {separator}, 3: {separator}, 6: {separator},
		4: {authenticode(info.Kernel, kernel), action, separator},
		5: {separator, text("Exit Boot Services Invocation"), text("Exit Boot Services Returned with Success")},
		8: nil, 11: nil, 12: nil, 13: nil, 14: nil,
	}}
	if !s.unified {
		load, err := pcr.CmdlineDigest(fw.Cmdline, im.Cmdline)
		if err != nil {
			t.Fatal(err)
		}
		p.events[9] = []component{{"load options", load}, {info.Initrd, digest.Sum256(initrd)}}
		return p.check(t)
	}
	image := read(info.UKI)
	p.events[4] = []component{authenticode(info.UKI, image), action, separator, authenticode(".linux", kernel)}
	// The stub gives the kernel its .cmdline as it stands, and the kernel
	// measures it as UTF-16 with a final NUL. Of one initrd, with nothing to
	// append, the stub passes on the section as it is (systemd-stub(7); Linux,
	// efi_convert_cmdline and efi_load_initrd).
	var options []byte
	for _, c := range []byte(im.Cmdline + "\x00") {
		options = append(options, c, 0)
	}
	p.events[9] = []component{{"load options, .cmdline", digest.Sum256(options)}, {info.Initrd, digest.Sum256(initrd)}}
	p.events[11] = sectionEvents(t, image)
	for _, n := range []int{4, 9, 11} {
		p.values[n] = replay(p.events[n])
	}
	return p.check(t)
}

func measure(t *testing.T, kernel, initrd []byte, cmdline string) pcr.Components {
	t.Helper()
	c, err := pcr.Measure(pcr.Files{Kernel: kernel, Initrd: initrd, Cmdline: cmdline})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// check requires the two predictions, by register and by event, to agree.
func (p prediction) check(t *testing.T) prediction {
	t.Helper()
	for n, events := range p.events {
		if got := replay(events); got != p.values[n] {
			t.Errorf("PCR %d: its events give %s, package pcr says %s", n, got, p.values[n])
		}
	}
	return p
}

func replay(events []component) digest.SHA256 {
	ds := make([]digest.SHA256, len(events))
	for i, e := range events {
		ds[i] = e.digest
	}
	return pcr.Extend(ds...)
}

// measuredSections is the order in which the stub measures sections, each by
// its name with the final NUL and then by its content (UAPI Group
// Specification 5, section "PE Sections"; systemd-stub(7), "TPM PCR Notes").
var measuredSections = []string{".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey"}

func sectionEvents(t *testing.T, image []byte) []component {
	t.Helper()
	sections, err := uki.Read(image)
	if err != nil {
		t.Fatal(err)
	}
	var out []component
	for _, name := range measuredSections {
		for _, s := range sections {
			if s.Name == name {
				out = append(out, component{"name " + name, digest.Sum256([]byte(name + "\x00"))}, component{"content of " + name, digest.Sum256(s.Data)})
			}
		}
	}
	return out
}

// watched is what a boot measured.
type watched struct {
	mu      sync.Mutex
	extends []record.Extend
	pcrs    map[int]digest.SHA256
	over    bool
	err     error
	line    time.Duration // from QEMU's start to the supervisor's first line
}

// exitMark is the last thing that firmware measures.
var exitMark = digest.Sum256([]byte("Exit Boot Services Returned with Success"))

func (w *watched) exchange(cmd, resp []byte, tpm transport.TPM) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	e, ok, err := record.ParseExtend(cmd)
	if err != nil || len(w.extends) > 1000 {
		w.over, w.err = true, errors.Join(err, errors.New("the firmware's TPM commands cannot be followed"))
		return
	}
	if !ok || len(resp) < 10 || binary.BigEndian.Uint32(resp[6:]) != 0 { // only what the TPM accepted counts
		return
	}
	w.extends = append(w.extends, e)
	if e.PCR == pcr.BootConfig && e.Digest == exitMark {
		w.over, w.err = true, w.read(tpm)
	}
}

func (w *watched) read(tpm transport.TPM) error {
	w.pcrs = make(map[int]digest.SHA256)
	for i := range 16 {
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(uint(i))}}}}.Execute(tpm)
		if err != nil || len(r.PCRValues.Digests) != 1 || len(r.PCRValues.Digests[0].Buffer) != sha256.Size {
			return fmt.Errorf("reading PCR %d: %w", i, errors.Join(err, errors.New("no SHA-256 value")))
		}
		w.pcrs[i] = digest.SHA256(r.PCRValues.Digests[0].Buffer)
	}
	return nil
}

// watchBoot boots a machine up to the supervisor's first line.
func watchBoot(t *testing.T, b imagetest.Build, im info.Image, s shape) *watched {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	dir := t.TempDir()
	ca, err := swtpm.OpenCA(filepath.Join(dir, "ca"), "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(dir, "tpm")
	if _, err := swtpm.Manufacture(ctx, b.Tools, state, ca); err != nil {
		t.Fatal(err)
	}
	tpm, ctrl, err := swtpm.Start(b.Tools, state)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	w := &watched{}
	tap := &swtpm.Tap{On: w.exchange}
	if ctrl, err = tap.Interpose(ctrl); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return filepath.Join(b.Image, name) }
	args := []string{"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", fmt.Sprint(s.cpus), "-m", fmt.Sprint(s.mem),
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-bios", b.Tools.OVMF(),
		"-chardev", "socket,id=tpm,fd=3", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0",
		"-drive", "if=none,id=root,format=raw,readonly=on,file=" + file(info.RootDisk), "-device", "virtio-blk-pci,drive=root,serial=" + info.RootSerial}
	if s.unified {
		args = append(args, "-kernel", file(info.UKI))
	} else {
		args = append(args, "-kernel", file(info.Kernel), "-initrd", file(info.Initrd), "-append", im.Cmdline)
	}
	cmd := b.Tools.Command(ctx, "qemu-system-x86_64", args...)
	console := &watcher{until: firstLine, cancel: cancel}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.ExtraFiles = []*os.File{ctrl}
	start := time.Now()
	child, err := proc.Start(cmd)
	ctrl.Close()
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-ctx.Done():
	case <-child.Done():
	}
	w.line = time.Since(start)
	if err := child.Kill(); err != nil {
		t.Error(err)
	}
	tap.Wait()
	if !bytes.Contains(console.Bytes(), []byte(firstLine)) {
		t.Fatalf("the supervisor did not come up within %v; console:\n%s", w.line.Round(time.Second), console.String())
	}
	if w.err != nil || w.pcrs == nil {
		t.Fatalf("the measurements cannot be read: %v, %d events", w.err, len(w.extends))
	}
	return w
}

// of returns the extends of one register.
func of(extends []record.Extend, n int) []record.Extend {
	var out []record.Extend
	for _, e := range extends {
		if e.PCR == n {
			out = append(out, e)
		}
	}
	return out
}

// compareBoot prints predicted and measured values side by side and fails for
// each that is not equal.
func compareBoot(t *testing.T, want prediction, w *watched) {
	t.Helper()
	var out strings.Builder
	fmt.Fprintf(&out, "QEMU's start to the supervisor's first line: %.1f s\n", w.line.Seconds())
	fmt.Fprintf(&out, "%-8s %-64s %-64s %s\n", "register", "predicted", "measured", "")
	verdict := func(a, b digest.SHA256) string {
		if a == b {
			return "equal"
		}
		t.Fail()
		return "DIFFERS"
	}
	replayed := record.Replay(w.extends)
	for n := range 15 {
		got := w.pcrs[n]
		if got != replayed[n] {
			t.Errorf("PCR %d holds %s, the commands that were seen give %s", n, got, replayed[n])
		}
		predicted, known := want.values[n]
		switch {
		case known:
			fmt.Fprintf(&out, "PCR %-4d %s %s %s\n", n, predicted, got, verdict(predicted, got))
		case n == pcr.HostPlatform:
			fmt.Fprintf(&out, "PCR %-4d %-64s %s by component, below\n", n, "depends on the machine", got)
		default: // 10: Linux's own log starts later than this moment
			fmt.Fprintf(&out, "PCR %-4d %-64s %s %s\n", n, "not written by firmware", got, verdict(digest.SHA256{}, got))
		}
	}
	numbers := make([]int, 0, len(want.events))
	for n := range want.events {
		numbers = append(numbers, n)
	}
	slices.SortFunc(numbers, cmp.Compare[int])
	for _, n := range numbers {
		events, measured := want.events[n], of(w.extends, n)
		if len(events) != len(measured) {
			t.Errorf("PCR %d: %d events predicted, %d measured", n, len(events), len(measured))
		}
		for i := range min(len(events), len(measured)) {
			fmt.Fprintf(&out, "PCR %-4d %s %s %s: %s\n", n, events[i].digest, measured[i].Digest, verdict(events[i].digest, measured[i].Digest), events[i].name)
		}
	}
	known := map[digest.SHA256]string{digest.Sum256(make([]byte, 4)): "separator", digest.Sum256([]byte{0, 0, 1, 0}): "variable BootOrder: 0000, 0001"}
	found := map[string]bool{}
	for i, e := range of(w.extends, pcr.HostPlatform) {
		name := cmp.Or(known[e.Digest], "from the machine: ACPI tables, their order, boot entries")
		found[name] = true
		fmt.Fprintf(&out, "PCR 1 component %d  %s  %s\n", i, e.Digest, name)
	}
	for _, name := range known {
		if !found[name] {
			t.Errorf("PCR 1 lacks the component %s", name)
		}
	}
	t.Logf("\n%s", out.String())
}
