// Package boottest boots the built image with one thing changed and reads on
// the console that it stops, and why. It holds tests only.
package boottest

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"cocoon/enclave/tdx"
	"cocoon/hostd/qemu"
	"cocoon/image/info"
	"cocoon/internal/kmod"
	"cocoon/internal/toolstree"
	"cocoon/measurements/verity"
)

// enable names the variable that turns these tests on: each case boots a
// machine under emulation, which takes a quarter of a minute.
const enable = "COCOON_VM_TESTS"

// bootTimeout is long because a busy machine emulates slowly.
const bootTimeout = 15 * time.Minute

// machine is one boot: copies of the artefacts, free to be changed.
type machine struct {
	tree    toolstree.Tree
	dir     string
	cmdline string
	serial  string
	clock   string // what the host's is, as QEMU's -rtc has it; empty: right
}

// setup copies the built image; it skips where tests of machines are off.
func setup(t *testing.T) (*machine, info.Image) {
	t.Helper()
	if os.Getenv(enable) == "" {
		t.Skipf("boots machines; set %s=1 to run it", enable)
	}
	tree, err := toolstree.Find()
	if err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(filepath.Dir(tree.Dir), "image")
	im, err := info.LoadImage(built)
	if err != nil {
		t.Fatalf("reading the built image (run make image): %v", err)
	}
	m := &machine{tree: tree, dir: t.TempDir(), cmdline: im.Cmdline, serial: info.RootSerial}
	for _, name := range []string{info.Kernel, info.Initrd, info.RootDisk} {
		data, err := os.ReadFile(filepath.Join(built, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return m, im
}

// boot runs the machine until it ends or a text shows on the console, which
// it returns.
func (m *machine) boot(t *testing.T, until string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	file := func(name string) string { return filepath.Join(m.dir, name) }
	cmd := m.tree.Command(ctx, "qemu-system-x86_64",
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", qemu.TCGModel, "-smp", "2", "-m", "1024",
		"-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-bios", m.tree.OVMF(),
		"-kernel", file(info.Kernel), "-initrd", file(info.Initrd), "-append", m.cmdline,
		"-drive", "if=none,id=root,format=raw,readonly=on,file="+file(info.RootDisk),
		"-device", "virtio-blk-pci,drive=root,serial="+m.serial)
	if m.clock != "" {
		cmd.Args = append(cmd.Args, "-rtc", "base="+m.clock)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var console watcher
	console.until, console.cancel = until, cancel
	cmd.Stdout, cmd.Stderr = &console, &console
	err := cmd.Run()
	if _, ended := err.(*exec.ExitError); err != nil && !ended && ctx.Err() == nil {
		t.Fatalf("starting the machine: %v", err)
	}
	if ctx.Err() == context.DeadlineExceeded {
		t.Errorf("the machine still ran after %v", bootTimeout)
	}
	return console.String()
}

// watcher keeps the console and ends the machine when a text shows.
type watcher struct {
	bytes.Buffer
	until  string
	cancel func()
}

func (w *watcher) Write(p []byte) (int, error) {
	n, err := w.Buffer.Write(p)
	if strings.Contains(w.String(), w.until) {
		w.cancel()
	}
	return n, err
}

// flip changes one byte of the root disk.
func (m *machine) flip(t *testing.T, offset int64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(m.dir, info.RootDisk), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// started is what the initrd says when it hands over to the supervisor.
const started = "is verified block by block"

func TestTheImageReachesTheSupervisor(t *testing.T) {
	m, im := setup(t)
	console := m.boot(t, "cocoon: s")
	if !strings.Contains(console, "root "+im.Root.Root+" "+started) || !strings.Contains(console, "cocoon: s") {
		t.Errorf("console:\n%s", console)
	}
}

func TestAChangedMachineDoesNotReachTheSupervisor(t *testing.T) {
	tests := []struct {
		name string
		edit func(*testing.T, *machine, info.Image)
		want string
	}{
		{"the file system's superblock is changed", func(t *testing.T, m *machine, _ info.Image) { m.flip(t, 1024+8) }, "dm-verity device corrupted"},
		{"the top of the hash tree is changed", func(t *testing.T, m *machine, im info.Image) {
			m.flip(t, int64(im.Root.DataBlocks)*verity.BlockSize)
		}, "dm-verity device corrupted"},
		{"the command line names another root", func(t *testing.T, m *machine, im info.Image) {
			other := strings.Repeat("00", 32)
			m.cmdline = strings.Replace(m.cmdline, im.Root.Root, other, 1)
		}, "dm-verity device corrupted"},
		{"the command line names no root", func(t *testing.T, m *machine, _ info.Image) {
			m.cmdline = strings.Replace(m.cmdline, "cocoon.root=", "root=", 1)
		}, "init.cmdline: parameter cocoon.root is missing"},
		{"the disk is cut short", func(t *testing.T, m *machine, _ info.Image) {
			if err := os.Truncate(filepath.Join(m.dir, info.RootDisk), 1<<20); err != nil {
				t.Fatal(err)
			}
		}, "init.verity: "},
		{"no disk is marked as the root", func(t *testing.T, m *machine, _ info.Image) { m.serial = "other" }, "init.root_disk: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, im := setup(t)
			tt.edit(t, m, im)
			console := m.boot(t, "cocoon: s")
			if !strings.Contains(console, tt.want) {
				t.Errorf("console lacks %q:\n%s", tt.want, console)
			}
			if strings.Contains(console, "cocoon: s") {
				t.Errorf("the supervisor came up:\n%s", console)
			}
		})
	}
}

// notBuilt skips, or fails where make test says that everything is built.
func notBuilt(t *testing.T, target string, err error) {
	t.Helper()
	if os.Getenv("COCOON_IMAGE_REQUIRED") != "" {
		t.Fatalf("%s has not run: %v", target, err)
	}
	t.Skipf("%s has not run: %v", target, err)
}

// rootFiles unpacks the built image's root file system.
func rootFiles(t *testing.T) string {
	t.Helper()
	tree, err := toolstree.Find()
	if err != nil {
		notBuilt(t, "make deps", err)
	}
	built := filepath.Join(filepath.Dir(tree.Dir), "image")
	im, err := info.LoadImage(built)
	if err != nil {
		notBuilt(t, "make image", err)
	}
	tmp := t.TempDir()
	disk, err := os.ReadFile(filepath.Join(built, info.RootDisk))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tmp, "erofs"), disk[:im.Root.DataBlocks*verity.BlockSize], 0o644); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(tmp, "root")
	cmd := tree.Command(t.Context(), "fsck.erofs", "--no-preserve-owner", "--extract="+dir, filepath.Join(tmp, "erofs"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("unpacking the root file system: %v\n%s", err, out)
	}
	return dir
}

// The root file system holds the five programs and nothing that runs others.
func TestTheRootHoldsFiveProgramsAndNoShell(t *testing.T) {
	root := rootFiles(t)
	var programs []string
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if st.Mode()&(os.ModeSetuid|os.ModeSetgid) != 0 {
			t.Errorf("%s runs with another user's rights", path)
		}
		if st.Mode()&0o111 != 0 && !strings.Contains(path, ".so") {
			programs = append(programs, strings.TrimPrefix(path, root))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/usr/bin/cocoon-enclave", "/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/sbin/mke2fs", "/usr/sbin/runc"}
	got, _ := json.Marshal(programs)
	if exp, _ := json.Marshal(want); string(got) != string(exp) {
		t.Errorf("programs are %s, want %s", got, exp)
	}
	shadow, err := os.ReadFile(filepath.Join(root, "etc/shadow"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(shadow)), "\n") {
		if f := strings.Split(line, ":"); len(f) < 2 || !strings.HasPrefix(f[1], "!") && f[1] != "*" {
			t.Errorf("an account is not locked: %q", line)
		} else if len(f) < 3 || f[2] != "" {
			t.Errorf("an account is dated by the day of the build: %q", line)
		}
	}
}

// initrdModules is what leads to the root file system.
var initrdModules = []string{"dm_bufio", "dm_mod", "dm_verity", "erofs", "reed_solomon", "virtio_blk"}

// rootModules is what the supervisor may load, in loading order or not:
// network, entropy, vsock, TPM and TEE drivers, fw_cfg, containers' overlay,
// power button, firewall, the data disk's encryption, watchdog.
// Everything else that a host attaches has no driver.
var rootModules = []string{
	"aesni_intel", "async_tx", "async_xor", "authenc", "button", "configfs", "dm_crypt",
	"dm_integrity", "evdev", "failover", "gf128mul", "net_failover",
	"nf_conntrack", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_tables", "nft_ct", "overlay", "qemu_fw_cfg",
	"sev_guest", "softdog", "tdx_guest", "tsm_report", "virtio_net", "virtio_rng",
	"vmw_vsock_virtio_transport", "vmw_vsock_virtio_transport_common", "vsock", "watchdog", "xor",
}

// initrdFiles unpacks the built image's initrd.
func initrdFiles(t *testing.T) map[string][]byte {
	t.Helper()
	tree, err := toolstree.Find()
	if err != nil {
		notBuilt(t, "make deps", err)
	}
	packed, err := os.ReadFile(filepath.Join(filepath.Dir(tree.Dir), "image", info.Initrd))
	if err != nil {
		notBuilt(t, "make image", err)
	}
	z, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	archive, err := z.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newc(t, archive)
}

// signed fails for a module without the kernel's own signature, which stands
// at the end (scripts/sign-file).
func signed(t *testing.T, name string, data []byte) {
	t.Helper()
	if !bytes.HasSuffix(data, []byte("~Module signature appended~\n")) {
		t.Errorf("%s is not signed", name)
	}
}

func TestTheInitrdLoadsOnlyTheseModules(t *testing.T) {
	var got, programs []string
	for name, data := range initrdFiles(t) {
		switch {
		case strings.HasPrefix(name, "modules/") && strings.HasSuffix(name, ".ko"):
			got = append(got, strings.TrimSuffix(strings.TrimPrefix(name, "modules/"), ".ko"))
			signed(t, name, data)
		case bytes.HasPrefix(data, []byte("\x7fELF")):
			programs = append(programs, name)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(initrdModules, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"init"}, programs); diff != "" {
		t.Errorf("programs (-want +got):\n%s", diff)
	}
}

// The lists name exactly the modules that are there: none is left out, and
// none is on no list.
func TestTheRootHasOnlyTheseModules(t *testing.T) {
	root := rootFiles(t)
	dir := filepath.Join(root, kmod.Dir)
	files, err := filepath.Glob(filepath.Join(dir, "*.ko"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		signed(t, file, data)
		got = append(got, strings.TrimSuffix(filepath.Base(file), ".ko"))
	}
	if diff := cmp.Diff(rootModules, got); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	listed := map[string]bool{}
	for _, name := range []string{kmod.Base, kmod.Vsock, kmod.Ciphers} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		list, err := kmod.Parse(string(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, m := range list {
			listed[strings.TrimSuffix(m.File, ".ko")] = true
		}
	}
	if diff := cmp.Diff(rootModules, slices.Sorted(maps.Keys(listed))); diff != "" {
		t.Errorf("listed modules (-want +got):\n%s", diff)
	}
}

// A TD needs a kernel that extends RTMRs. The driver of Linux 6.16 and later
// gives its registers' names to tsm_mr_create_attribute_group, which appends the
// hash's (Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest).
func TestTheTDXDriverHasTheRegisterThatIsExtended(t *testing.T) {
	root := rootFiles(t)
	f, err := elf.Open(filepath.Join(root, kmod.Dir, "tdx_guest.ko"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(symbols, func(s elf.Symbol) bool {
		return s.Name == "tsm_mr_create_attribute_group" && s.Section == elf.SHN_UNDEF
	}) {
		t.Error("the driver makes no files of registers")
	}
	const device = "/sys/devices/virtual/misc/tdx_guest"
	if want := device + "/measurements"; tdx.MeasurementsDir != want {
		t.Errorf("the registers are looked for in %s, the kernel has them in %s", tdx.MeasurementsDir, want)
	}
	var texts []byte
	for _, s := range f.Sections {
		if s.Type == elf.SHT_PROGBITS && s.Flags&elf.SHF_ALLOC != 0 && s.Flags&elf.SHF_EXECINSTR == 0 {
			data, err := s.Data()
			if err != nil {
				t.Fatal(err)
			}
			texts = append(append(texts, 0), data...)
		}
	}
	for _, name := range []string{filepath.Base(device), fmt.Sprintf("rtmr%d", tdx.RuntimeRegister)} {
		if !bytes.Contains(texts, []byte("\x00"+name+"\x00")) {
			t.Errorf("the driver does not name %s", name)
		}
	}
}

// newc reads a cpio archive of that form (initramfs buffer format,
// Documentation/driver-api/early-userspace).
func newc(t *testing.T, b []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	align := func(n int) int { return (n + 3) &^ 3 }
	for at := 0; ; {
		if len(b) < at+110 || string(b[at:at+6]) != "070701" {
			t.Fatalf("no archive member at %d", at)
		}
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[at+6+8*i:at+14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		size, nameSize := field(6), field(11)
		name := string(b[at+110 : at+110+nameSize-1])
		if name == "TRAILER!!!" {
			return files
		}
		data := align(at + 110 + nameSize)
		files[name] = b[data : data+size]
		at = align(data + size)
	}
}
