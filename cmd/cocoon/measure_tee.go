package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/image/info"
	"cocoon/internal/fault"
	"cocoon/measurements/boot"
	"cocoon/measurements/compare"
	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
	"cocoon/measurements/pcr"
	"cocoon/measurements/tdvf"
	"cocoon/measurements/uki"
)

// bootFlags name the files of a boot and the host's part of it; "cocoon
// measure rtmr", "pcr", "image" and "explain" share them.
type bootFlags struct {
	firmware             string
	image                string
	kernel, initrd       string
	cmdline, append      string
	uki                  string
	memory               uint64
	loader, rsdp, tables string
	config               string
	rule, menu           string
	patched              bool
	out                  string
	json                 bool
}

func (f *bootFlags) add(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.firmware, "firmware", "", "firmware `file` (OVMF.fd)")
	fs.StringVar(&f.image, "image", "", "`directory` with vmlinuz, initrd and cmdline")
	fs.StringVar(&f.kernel, "kernel", "", "kernel `file`, in place of --image")
	fs.StringVar(&f.initrd, "initrd", "", "initrd `file`, in place of --image")
	fs.StringVar(&f.cmdline, "cmdline", "", "`file` with the kernel command line, in place of --image")
	fs.StringVar(&f.append, "append", "", "the kernel command line itself, as `text`")
	fs.StringVar(&f.uki, "uki", "", "unified kernel image `file`: predict its boot, not that of kernel and initrd")
	fs.Uint64Var(&f.memory, "memory", 0, "memory of the machine in `MiB`: RTMR0 has a description of it")
	fs.StringVar(&f.loader, "acpi-loader", "", "`file` that the machine gives as fw_cfg etc/table-loader")
	fs.StringVar(&f.rsdp, "acpi-rsdp", "", "`file` that the machine gives as fw_cfg etc/acpi/rsdp")
	fs.StringVar(&f.tables, "acpi-tables", "", "`file` that the machine gives as fw_cfg etc/acpi/tables")
	fs.StringVar(&f.config, "config", "", "guest config `file`: RTMR3 and PCR 15 follow from it")
	fs.StringVar(&f.rule, "cmdline-rule", "", "how the firmware passes the command line on, `initrd-first or initrd-last`; by its version where that is known")
	fs.StringVar(&f.menu, "boot-menu", "", "which boot options the firmware makes, `boot-menu or ui-app`; by its version where that is known")
	fs.BoolVar(&f.patched, "qemu-patch", false, "QEMU before 10 changes the kernel's setup header (with --memory)")
	fs.StringVarP(&f.out, "out", "o", "", "write the result as JSON to this `file`, for cocoon measure diff")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	_ = cmd.MarkFlagRequired("firmware")
}

// save writes a result to --out, and for a person or a machine to w.
func (f *bootFlags) save(w io.Writer, doc any, write func(io.Writer) error) error {
	if f.out != "" {
		var b bytes.Buffer
		err := writeJSON(&b, doc)
		if err == nil {
			err = os.WriteFile(f.out, b.Bytes(), 0o644)
		}
		if err != nil {
			return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing result: %w", err)
		}
	}
	if f.json {
		return writeJSON(w, doc)
	}
	return write(w)
}

// firmwareName is what a firmware is called in the output.
func firmwareName(path string) string { return filepath.Base(path) }

// readFirmwareFile reads a firmware and its components.
func readFirmwareFile(path string) (*launch.Firmware, error) {
	b, err := readInput("--firmware", path, tdvf.MaxSize)
	if err != nil {
		return nil, err
	}
	f, err := launch.ReadFirmware(firmwareName(path), b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "measure.firmware", "give an OVMF or TDVF binary", "%w", err)
	}
	return f, nil
}

// parts are the files that the flags name, read.
type parts struct {
	firmware *launch.Firmware
	image    *launch.Image // nil with a unified kernel image
	host     launch.Host
	runtime  [][]byte
	events   []boot.Event
}

func (f *bootFlags) read() (*parts, error) {
	p := &parts{}
	var err error
	if p.firmware, err = readFirmwareFile(f.firmware); err != nil {
		return nil, err
	}
	if f.rule != "" {
		p.firmware.Cmdline = boot.CmdlineRule(f.rule)
	}
	if f.menu != "" {
		p.firmware.Menu = boot.BootMenu(f.menu)
	}
	if p.firmware.Cmdline == "" || p.firmware.Menu == "" {
		return nil, fault.New(fault.ExitNotReady, "measure.firmware_version", "give --cmdline-rule and --boot-menu",
			"measuring firmware %s: its version does not say how it boots", p.firmware.Name)
	}
	if err := f.readHost(&p.host); err != nil {
		return nil, err
	}
	if f.config != "" {
		if _, p.runtime, err = readRuntime(f.config); err != nil {
			return nil, err
		}
	}
	if f.uki != "" {
		err = f.readUKI(p)
	} else {
		err = f.readDirect(p)
	}
	if err != nil {
		return nil, err
	}
	p.events = append(p.events, boot.Runtime(p.runtime)...)
	return p, nil
}

func (f *bootFlags) readHost(h *launch.Host) error {
	h.Memory = f.memory << 20
	for _, t := range []struct {
		flag, path string
		to         **boot.Digests
	}{{"--acpi-loader", f.loader, &h.ACPILoader}, {"--acpi-rsdp", f.rsdp, &h.ACPIRSDP}, {"--acpi-tables", f.tables, &h.ACPITables}} {
		if t.path == "" {
			continue
		}
		b, err := readInput(t.flag, t.path, 16<<20)
		if err != nil {
			return err
		}
		*t.to = boot.Of(b)
	}
	return nil
}

func (f *bootFlags) readUKI(p *parts) error {
	b, err := readInput("--uki", f.uki, maxInitrd)
	if err != nil {
		return err
	}
	im, err := uki.Read(b)
	if err == nil {
		p.events, err = launch.UKIEvents(im, p.firmware, p.host)
	}
	if err != nil {
		return fault.New(fault.ExitParse, "measure.uki", "give an image that systemd-stub starts, without profiles and device trees", "%w", err)
	}
	return nil
}

func (f *bootFlags) readDirect(p *parts) error {
	kernel, initrd, cmdline, err := f.readFiles()
	if err != nil {
		return err
	}
	if f.patched {
		kernel, err = boot.Patch{Memory: f.memory << 20, InitrdSize: uint32(len(initrd))}.Apply(kernel)
		if err != nil {
			return fault.New(fault.ExitParse, "measure.kernel", "give a bzImage, and --memory in MiB", "%w", err)
		}
	}
	if p.image, err = launch.ReadImage(kernel, initrd, cmdline); err == nil {
		p.events, err = launch.Events(p.image, p.firmware, p.host)
	}
	if err != nil {
		return fault.New(fault.ExitParse, "measure.image", "give a bzImage with an EFI stub, an initrd and its command line", "%w", err)
	}
	return nil
}

// readFiles reads kernel, initrd and command line.
func (f *bootFlags) readFiles() (kernel, initrd []byte, cmdline string, err error) {
	paths := []string{f.kernel, f.initrd, f.cmdline}
	if f.image != "" {
		for i, name := range []string{info.Kernel, info.Initrd, info.Cmdline} {
			if paths[i] == "" {
				paths[i] = filepath.Join(f.image, name)
			}
		}
	}
	if paths[0] == "" || paths[1] == "" || paths[2] == "" && f.append == "" {
		return nil, nil, "", fault.New(fault.ExitInternal, "usage", "give --image DIR, or --kernel, --initrd and --append, or --uki", "reading the boot's files: one is not given")
	}
	if kernel, err = readInput("--kernel", paths[0], maxKernel); err != nil {
		return nil, nil, "", err
	}
	if initrd, err = readInput("--initrd", paths[1], maxInitrd); err != nil {
		return nil, nil, "", err
	}
	if f.append != "" {
		return kernel, initrd, f.append, nil
	}
	b, err := readInput("--cmdline", paths[2], pcr.MaxCmdline)
	return kernel, initrd, string(b), err
}

// teeReport is what the verbs that compute registers write: the same document
// for all of them, which "cocoon measure diff" reads.
type teeReport struct {
	Firmware       string        `json:"firmware"`
	FirmwareSHA256 digest.SHA256 `json:"firmware_sha256"`
	compare.Snapshot
	Notes []string `json:"notes"`
}

func newTEEReport(f *launch.Firmware) *teeReport {
	return &teeReport{Firmware: f.Name, FirmwareSHA256: f.SHA256, Snapshot: *compare.New(), Notes: []string{}}
}

func (r *teeReport) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// write writes the report for a person.
func (r *teeReport) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "firmware %s %s\n", r.FirmwareSHA256, plain(r.Firmware))
	names := make([]string, 0, len(r.Registers))
	width := 0
	for n := range r.Registers {
		names = append(names, n)
		width = max(width, len(n))
	}
	sort.Slice(names, func(i, j int) bool { return registerLess(names[i], names[j]) })
	for _, n := range names {
		fmt.Fprintf(&b, "%-*s %s\n", width, n, r.Registers[n])
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// registerLess orders "PCR 9" before "PCR 11".
func registerLess(a, b string) bool {
	var na, nb int
	var ba, bb string
	if x, _ := fmt.Sscanf(a, "PCR %d %s", &na, &ba); x >= 1 {
		if y, _ := fmt.Sscanf(b, "PCR %d %s", &nb, &bb); y >= 1 && na != nb {
			return na < nb
		}
	}
	return a < b
}

// hostComponents lists what a register lacks to be a value.
func (r *teeReport) hostComponents(register string) {
	var missing []string
	for _, c := range r.Components {
		if c.Register == register && c.Digest == "" {
			missing = append(missing, c.Name)
		}
	}
	if len(missing) > 0 {
		r.note("%s depends on the host: %s", register, strings.Join(missing, ", "))
	}
}
