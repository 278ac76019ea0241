package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/hostd/console"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/qemu"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vsock"
	"cocoon/internal/imagetest"
	"cocoon/internal/syncbuf"
	"cocoon/measurements/pcr"
	"cocoon/verifier/evidence"
)

// hostile adds devices to QEMU that no spec can ask for.
type hostile struct {
	imagetest.Build
	extra []string
}

func (h hostile) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if strings.HasPrefix(name, "qemu-system-") {
		args = append(slices.Clone(args), h.extra...)
	}
	return h.Tools.Command(ctx, name, args...)
}

// start boots a spec in this process, with whatever tools.
func start(t *testing.T, b imagetest.Build, tools swtpm.Tools, s *spec.Spec, con *syncbuf.Buffer) *machine.Machine {
	t.Helper()
	return startWith(t, b, tools, s, con, nil, vsock.Serial)
}

func startWith(t *testing.T, b imagetest.Build, tools swtpm.Tools, s *spec.Spec, con *syncbuf.Buffer, line func(*console.Line), transport string) *machine.Machine {
	t.Helper()
	return startIn(t, t.TempDir(), b, tools, s, con, line, transport)
}

// startIn boots in a directory, whose TPM is that of an earlier boot there.
func startIn(t *testing.T, dir string, b imagetest.Build, tools swtpm.Tools, s *spec.Spec, con *syncbuf.Buffer, line func(*console.Line), transport string) *machine.Machine {
	t.Helper()
	ca, err := swtpm.OpenCA(filepath.Join(dir, "ca"), "default", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.Start(t.Context(), machine.Options{
		Spec: s, Dir: dir, Tools: tools, Firmware: b.Tools.OVMF(), Accel: qemu.AccelTCG, AccelWhy: "test", CA: ca,
		Transport: transport, TransportWhy: "test",
		Console: con, OnLine: line, Clock: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Stop(context.Background(), 0) })
	return m
}

// until waits until the guest has passed a stage.
func until(t *testing.T, m *machine.Machine, con *syncbuf.Buffer, stage string) {
	t.Helper()
	untilFor(t, m, con, stage, engineLimit)
}

func untilFor(t *testing.T, m *machine.Machine, con *syncbuf.Buffer, stage string, most time.Duration) {
	t.Helper()
	limit := time.After(most)
	for {
		st := m.State()
		ok, err := st.Reached(stage)
		if err != nil {
			t.Fatalf("%v\n%s", err, con)
		}
		if ok {
			return
		}
		select {
		case <-limit:
			t.Fatalf("stage %s was not reached\n%s", stage, con)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ssdt is an ACPI table without code (ACPI 6.5, section 5.2.6).
func ssdt(t *testing.T) string {
	t.Helper()
	b := []byte("SSDT")
	b = binary.LittleEndian.AppendUint32(b, 36)
	b = append(b, 2, 0)
	b = append(b, "EVILTB"+"EVILTABL"...)
	b = append(b, 1, 0, 0, 0, 'E', 'V', 'I', 'L', 1, 0, 0, 0)
	var sum byte
	for _, c := range b {
		sum += c
	}
	b[9] = -sum
	path := filepath.Join(t.TempDir(), "ssdt.aml")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var pcrRE = regexp.MustCompile(`latch measured" pcr15=([0-9a-f]{64})`)

// shareOverVirtioFS serves a folder with virtiofsd and returns QEMU's arguments
// for it and what the server says. A vhost-user device works on the guest's
// memory, which has to be shared for it.
func shareOverVirtioFS(t *testing.T, b imagetest.Build, s *spec.Spec, dir string) ([]string, *syncbuf.Buffer) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "fs.sock")
	server := b.Tools.Command(t.Context(), "virtiofsd", "--socket-path", socket, "--shared-dir", dir, "--sandbox", "none", "--seccomp", "none", "--log-level", "debug")
	var said syncbuf.Buffer
	server.Stdout, server.Stderr = &said, &said
	child, err := proc.Start(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { child.Kill() })
	for limit := time.After(time.Minute); ; {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		select {
		case <-child.Done():
			t.Fatalf("virtiofsd ended:\n%s", &said)
		case <-limit:
			t.Fatalf("virtiofsd does not listen:\n%s", &said)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return []string{
		"-object", fmt.Sprintf("memory-backend-memfd,id=evilram,size=%dM,share=on", s.MemoryMiB), "-machine", "memory-backend=evilram",
		"-chardev", "socket,id=evilfs,path=" + socket, "-device", "vhost-user-fs-pci,chardev=evilfs,tag=cocoon",
	}, &said
}

// TestNoUnmeasuredInputReachesADecision boots with everything that a host can
// put beside the measured parts: credentials as systemd takes them from SMBIOS
// and fw_cfg, unknown documents, shared folders over 9p and virtio-fs, further
// disks, ports and network devices, and an ACPI table. The machine must come to
// the same PCR 15 as without them, and name none of them; its kernel must not
// have asked for the shared folder, which takes a driver that the image does not
// have and, behind the latch, cannot get. One disk more has the model pack's
// name: the host is not to choose by order, so the machine ends there.
func TestNoUnmeasuredInputReachesADecision(t *testing.T) {
	b := imagetest.Find(t)
	s := worker(t, b)
	share, disk := t.TempDir(), filepath.Join(t.TempDir(), "evil.img")
	if err := errors.Join(os.WriteFile(filepath.Join(share, "config.json"), []byte("{}"), 0o644),
		os.WriteFile(disk, bytes.Repeat([]byte("evil"), 1<<18), 0o600)); err != nil {
		t.Fatal(err)
	}
	virtiofs, server := shareOverVirtioFS(t, b, s, share)
	tools := hostile{Build: b, extra: append(virtiofs,
		"-smbios", "type=11,value=io.systemd.credential:evil.cmdline=init=/evil,value=io.systemd.stub.kernel-cmdline-extra=evil",
		"-fw_cfg", "name=opt/io.systemd.credentials/evil,string=evil",
		"-fw_cfg", "name=opt/cocoon/evil.json,string={}",
		"-fw_cfg", "name=opt/org.evil/config.json,string={}",
		"-fsdev", "local,id=evil,path="+share+",security_model=none,readonly=on", "-device", "virtio-9p-pci,fsdev=evil,mount_tag=cocoon",
		"-drive", "if=none,id=evil,format=raw,readonly=on,file="+disk, "-device", "virtio-blk-pci,drive=evil,serial=cocoon-evil",
		"-drive", "if=none,id=scsi,format=raw,readonly=on,file="+disk, "-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-hd,drive=scsi,bus=scsi.0,serial=cocoon-root",
		"-device", "virtio-serial-pci,id=evilports", "-chardev", "null,id=evil", "-device", "virtserialport,bus=evilports.0,chardev=evil,name=cocoon.config",
		"-device", "qemu-xhci", "-device", "usb-kbd", "-device", "vmgenid", "-device", "pvpanic-pci", "-device", "virtio-balloon-pci",
		"-acpitable", "file="+ssdt(t),
		"-drive", "if=none,id=twin,format=raw,readonly=on,file="+s.Packs.Model, "-device", "virtio-blk-pci,drive=twin,serial="+qemu.SerialModel,
	)}
	var con syncbuf.Buffer
	m := start(t, b, tools, s, &con)
	until(t, m, &con, "latch")
	doc, err := os.ReadFile(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := evidence.ParseConfig(doc)
	if err != nil {
		t.Fatal(err)
	}
	events, err := evidence.RuntimeEvents(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var raw [][]byte
	for _, e := range events {
		b, err := e.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, b)
	}
	got := pcrRE.FindStringSubmatch(con.String())
	if want := pcr.Runtime(raw).String(); got == nil || got[1] != want {
		t.Errorf("PCR 15 is %v, want %s\n%s", got, want, &con)
	}
	if strings.Contains(strings.ToLower(con.String()), "evil") {
		t.Errorf("the guest took notice of what it should not:\n%s", &con)
	}
	// QEMU did attach the folder. A mount begins with FUSE_INIT (Linux,
	// include/uapi/linux/fuse.h). One comes from OVMF, which has a driver and
	// keeps a file of variables there, before it starts the measured kernel: the
	// device works for who has a driver. A second would be Linux's.
	said := server.String()
	if !strings.Contains(said, "Client connected") || strings.Count(said, "opcode=Init ") != 1 {
		t.Errorf("the server of the shared folder says:\n%s", said)
	}
	select {
	case <-m.Done():
	case <-time.After(engineLimit):
		t.Fatal("it runs on")
	}
	if !strings.Contains(con.String(), "2 devices have it") {
		t.Errorf("the second model disk is not refused:\n%s", &con)
	}
	if st := m.State(); len(st.Guest.Stages) == 0 || st.Guest.Stages[len(st.Guest.Stages)-1].Name != "model" || st.Guest.Stages[len(st.Guest.Stages)-1].Status != "failed" {
		t.Errorf("the stage model did not fail: %+v", st.Guest.Stages)
	}
}
