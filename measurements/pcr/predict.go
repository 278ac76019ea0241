package pcr

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sort"

	"cocoon/measurements/boot"
	"cocoon/measurements/digest"
	"cocoon/measurements/pe"
)

// Registers of a direct boot, and who writes them (PFP section 3.3.4).
const (
	Firmware0     = 0 // firmware code: recorded
	HostPlatform  = 1 // ACPI tables, boot variables: depends on the host, reported only
	DriverCode    = 2 // option ROMs: none
	DriverConfig  = 3
	BootManager   = 4 // the kernel, as an EFI application
	BootConfig    = 5 // leaving boot services
	Manufacturer  = 6
	SecureBoot    = 7 // Secure Boot variables: recorded
	OSLoader8     = 8 // not written in a direct boot
	LoaderInput   = 9 // load options and initrd, by the kernel's EFI stub
	RuntimeConfig = 15
)

// MaxCmdline is the longest command line, in bytes.
const MaxCmdline = boot.MaxCmdline

// ErrCmdline is returned for command lines that cannot be predicted.
var ErrCmdline = boot.ErrCmdline

// Files are the files of a direct boot, as they are handed to QEMU.
type Files struct {
	Kernel  []byte // a PE image: bzImage with EFI stub
	Initrd  []byte
	Cmdline string // QEMU's -append
}

// Measure returns the components of the given files.
func Measure(f Files) (Components, error) {
	k, err := pe.Authenticode256(f.Kernel)
	if err != nil {
		return Components{}, fmt.Errorf("measuring kernel: %w", err)
	}
	if len(f.Initrd) == 0 {
		return Components{}, errors.New("measuring initrd: it is empty")
	}
	return Components{KernelAuthenticodeSHA256: k, InitrdSHA256: digest.Sum256(f.Initrd)}, nil
}

// CmdlineDigest returns the digest that is extended into PCR 9 for a command
// line: SHA-256 of the load options in UTF-16LE with a final NUL, as the EFI
// stub measures them. The initrd, which QEMU's loader hands over as a file of
// this name, puts "initrd=initrd" before or after it.
func CmdlineDigest(rule CmdlineRule, cmdline string) (digest.SHA256, error) {
	b, err := boot.LoadOptions(rule, cmdline)
	if err != nil {
		return digest.SHA256{}, err
	}
	return digest.Sum256(b), nil
}

// CheckCmdline refuses command lines whose measured form is not known: what
// is not ASCII is converted differently by different loaders, and an
// "initrd=" of its own would meet the loader's.
func CheckCmdline(s string) error { return boot.CheckCmdline(s) }

// Predict returns the registers that a firmware gives for components and a
// command line: PCR 0 and 7 as recorded, 2 to 6, 8, 9 and 11 to 14 computed.
// PCR 1 depends on the host and PCR 15 on the config; both are absent.
func Predict(fw Firmware, c Components, cmdline string) (Values, error) {
	load, err := CmdlineDigest(fw.Cmdline, cmdline)
	if err != nil {
		return nil, err
	}
	separator := digest.Sum256(boot.Separator())
	v := Values{
		Firmware0:    fw.PCR0,
		DriverCode:   Extend(separator),
		DriverConfig: Extend(separator),
		BootManager:  Extend(c.KernelAuthenticodeSHA256, text(boot.ActionBoot), separator),
		BootConfig:   Extend(separator, text(boot.ActionExit), text(boot.ActionExitResult)),
		Manufacturer: Extend(separator),
		SecureBoot:   fw.PCR7,
		LoaderInput:  Extend(load, c.InitrdSHA256),
	}
	for _, i := range []int{OSLoader8, 11, 12, 13, 14} {
		v[i] = digest.SHA256{}
	}
	return v, nil
}

func text(s string) digest.SHA256 { return digest.Sum256([]byte(s)) }

// Extend returns the value of a SHA-256 register that started at zero and was
// extended with the given digests, in order (TPM 2.0 Library, Part 1, section
// "PCR Operations").
func Extend(digests ...digest.SHA256) digest.SHA256 {
	var v digest.SHA256
	for _, d := range digests {
		v = sha256.Sum256(append(v[:], d[:]...))
	}
	return v
}

// Runtime returns PCR 15 after the given events, each as the bytes that its
// digest is taken over.
func Runtime(events [][]byte) digest.SHA256 {
	ds := make([]digest.SHA256, len(events))
	for i, e := range events {
		ds[i] = digest.Sum256(e)
	}
	return Extend(ds...)
}

// Numbers returns the register numbers of v, in order.
func (v Values) Numbers() []int {
	ns := make([]int, 0, len(v))
	for n := range v {
		ns = append(ns, n)
	}
	sort.Ints(ns)
	return ns
}
