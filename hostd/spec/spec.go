// Package spec has the description of a virtual machine that an operator
// hands to the host daemon: a closed, strictly parsed JSON or YAML document. Nothing
// in it is trusted by the guest or by a verifier; the measurements say what
// was really booted.
package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cocoon/internal/fault"
	"cocoon/internal/strictyaml"
)

// Limits on a spec, in bytes and counts.
const (
	MaxSize      = 64 << 10
	MaxFwCfg     = 8       // extra fw_cfg files
	MaxFwCfgSize = 1 << 20 // bytes of one fw_cfg file
	MaxForwards  = 16
	MaxName      = 40 // characters
)

// TEE types.
const (
	TEEVTPM = "vtpm" // measured boot into a software TPM: development only
	TEETDX  = "tdx"
	TEESNP  = "snp"
)

// When a VM that has ended on its own is started again.
const (
	RestartNo        = "no"
	RestartOnFailure = "on-failure"
	RestartAlways    = "always"
)

// MaxDrain bounds the seconds that a guest may drain.
const MaxDrain = 3600

// The names of the image's files inside Spec.Image.
const (
	KernelFile  = "vmlinuz"
	InitrdFile  = "initrd"
	RootFile    = "root.img"
	CmdlineFile = "cmdline"
)

// The names of the guest's own documents below FwCfgPrefix.
const (
	FwCfgPrefix  = "opt/cocoon/"
	ConfigName   = "config.json"
	OperatorName = "operator.json"
)

// GuestNet is the network that the guest sees; forwards listen on addresses
// in it. It exists only inside the VM's user-mode network.
var GuestNet = netip.MustParsePrefix("10.0.2.0/24")

// Addresses of GuestNet that the user-mode network keeps for itself or gives
// to the guest.
var reserved = map[netip.Addr]string{
	netip.MustParseAddr("10.0.2.0"):   "the network",
	netip.MustParseAddr("10.0.2.2"):   "the host",
	netip.MustParseAddr("10.0.2.3"):   "the name server",
	netip.MustParseAddr("10.0.2.15"):  "the guest",
	netip.MustParseAddr("10.0.2.255"): "broadcast",
}

// Spec describes one VM. Paths are absolute once Load or Resolve has run.
type Spec struct {
	Version   int               `json:"version"`                // 1
	Name      string            `json:"name"`                   // unique on this host
	TEE       string            `json:"tee"`                    // vtpm, tdx or snp
	MemoryMiB int               `json:"memory_mib"`             // 256 to 4194304
	CPUs      int               `json:"cpus"`                   // 1 to 512
	Image     string            `json:"image"`                  // directory with vmlinuz, initrd, root.img, cmdline
	Packs     Packs             `json:"packs"`                  // further read-only disks
	DataDisk  *DataDisk         `json:"data_disk,omitempty"`    // writable disk, encrypted by the guest
	Config    string            `json:"config"`                 // config.json, handed over as fw_cfg opt/cocoon/config.json
	Operator  string            `json:"operator"`               // operator.json, as fw_cfg opt/cocoon/operator.json
	FwCfg     map[string]string `json:"fw_cfg,omitempty"`       // name below opt/cocoon/ to file
	Forwards  []Forward         `json:"forwards,omitempty"`     // what the guest may reach; nothing else
	Firmware  string            `json:"firmware,omitempty"`     // OVMF.fd; default: the tools tree's
	TPMCA     string            `json:"tpm_ca,omitempty"`       // software-TPM CA that signs the EK; default "default"
	StopGrace int               `json:"stop_grace_s,omitempty"` // seconds between power button and power off; default 10
	Drain     int               `json:"drain_s,omitempty"`      // seconds that a guest which says it is draining has in all; default: no more
	Restart   string            `json:"restart,omitempty"`      // no, on-failure or always; default no
	GPUs      *GPUs             `json:"gpus,omitempty"`         // devices given to the VM
	NUMA      []Node            `json:"numa,omitempty"`         // where memory and processors lie; empty: anywhere
	Hugepages string            `json:"hugepages,omitempty"`    // 2M or 1G; empty: ordinary pages
	MMIO64MiB int               `json:"mmio64_mib,omitempty"`   // window for devices above 4 GiB; 0: as the firmware sizes it
	SNP       *SNP              `json:"snp,omitempty"`          // how an SNP guest is launched
	TDX       *TDX              `json:"tdx,omitempty"`          // how a TDX guest is launched
	Handover  *Handover         `json:"handover,omitempty"`     // what an upgrade carries the data disk's key over with
}

// Packs are the dm-verity disks beside the root. Either may be empty.
type Packs struct {
	Engine string   `json:"engine"`           // serial cocoon-engine
	Model  string   `json:"model"`            // serial cocoon-model
	Models []string `json:"models,omitempty"` // further models: serials cocoon-model-2, -3 and so on
}

// MaxModels bounds the model packs of one VM: a PCI bus has 32 slots.
const MaxModels = 16

// ModelPacks returns the model packs in the order of their serials.
func (p *Packs) ModelPacks() []string {
	if p.Model == "" {
		return nil
	}
	return append([]string{p.Model}, p.Models...)
}

// DataDisk is the disk on which the guest keeps what outlives a boot (serial
// cocoon-data). The file is made where it does not exist; its content is the
// guest's, encrypted with a key that only the same measured guest gets.
type DataDisk struct {
	Path    string `json:"path"`
	SizeMiB int    `json:"size_mib"` // of a new file; an existing one keeps its size
}

// Handover names what the VM's evidence is held against when an upgrade moves
// the data disk to the next image, or from the one before.
type Handover struct {
	Manifest   string `json:"manifest"`             // the image's, as published
	Collateral string `json:"collateral,omitempty"` // beside this machine's evidence (TDX, CRLs, RIMs)
}

// Size limits of a data disk, in MiB.
const (
	MinDataMiB = 32
	MaxDataMiB = 16 << 20
)

// Forward lets the guest open TCP connections to one host target. There is no
// way in: the guest has no inbound port.
type Forward struct {
	Guest  string `json:"guest"`  // 10.0.2.x:port, where the guest dials
	Target string `json:"target"` // host:port or unix:/path, where the host connects
}

var (
	nameRE  = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,39}$`)
	fwCfgRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,30}$`)
)

// ValidName reports whether s can be the name of a VM or of a TPM CA.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// Load reads a spec file; relative paths in it are relative to its directory.
func Load(path string) (*Spec, error) {
	b, err := readLimited(path, MaxSize)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "vm.spec.unreadable", "give the path of a VM spec; docs/hostd.md describes it", "reading spec: %w", err)
	}
	s, err := Parse(b)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("resolving spec: %w", err)
	}
	s.Resolve(dir)
	return s, nil
}

// Parse reads a spec, YAML or JSON, and validates everything that does not
// need the file system.
func Parse(b []byte) (*Spec, error) {
	var s Spec
	const hint = "docs/hostd.md lists every field of a VM spec"
	if err := strictyaml.Decode(b, MaxSize, &s); err != nil {
		return nil, fault.New(fault.ExitParse, "vm.spec.malformed", hint, "parsing spec: %w", err)
	}
	if err := s.Validate(); err != nil {
		return nil, fault.New(fault.ExitParse, "vm.spec.invalid", hint, "parsing spec: %w", err)
	}
	return &s, nil
}

// Resolve makes relative paths absolute against dir.
func (s *Spec) Resolve(dir string) {
	abs := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for _, p := range []*string{&s.Image, &s.Packs.Engine, &s.Packs.Model, &s.Config, &s.Operator, &s.Firmware} {
		abs(p)
	}
	for i := range s.Packs.Models {
		abs(&s.Packs.Models[i])
	}
	if s.DataDisk != nil {
		abs(&s.DataDisk.Path)
	}
	if s.SNP != nil {
		abs(&s.SNP.IDBlock)
		abs(&s.SNP.IDAuth)
	}
	if s.Handover != nil {
		abs(&s.Handover.Manifest)
		abs(&s.Handover.Collateral)
	}
	for k, v := range s.FwCfg {
		abs(&v)
		s.FwCfg[k] = v
	}
}

// CheckAbsolute reports every path that is not absolute.
func (s *Spec) CheckAbsolute() error {
	var errs []error
	fs := s.Files()
	if s.DataDisk != nil {
		fs["data disk"] = s.DataDisk.Path
	}
	for _, role := range sortedKeys(fs) {
		if !filepath.IsAbs(fs[role]) {
			errs = append(errs, fmt.Errorf("path of %s is not absolute: %.128q", role, fs[role]))
		}
	}
	return errors.Join(errs...)
}

// Validate reports every field that is out of its range.
func (s *Spec) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if s.Version != 1 {
		bad("version %d, want 1", s.Version)
	}
	if !nameRE.MatchString(s.Name) {
		bad("name %.64q: want 1 to 40 of a-z, 0-9 and -", s.Name)
	}
	switch s.TEE {
	case TEEVTPM, TEETDX, TEESNP:
	default:
		bad("tee %.16q is unknown: want vtpm, tdx or snp", s.TEE)
	}
	if s.MemoryMiB < 256 || s.MemoryMiB > 4<<20 {
		bad("memory_mib %d, want 256 to %d", s.MemoryMiB, 4<<20)
	}
	if s.CPUs < 1 || s.CPUs > 512 {
		bad("cpus %d, want 1 to 512", s.CPUs)
	}
	if s.Image == "" {
		bad("image is missing")
	}
	switch n := len(s.Packs.Models); {
	case n > 0 && s.Packs.Model == "":
		bad("packs has models and no model: the first one goes into model")
	case n >= MaxModels:
		bad("%d model packs, at most %d", n+1, MaxModels)
	}
	for i, p := range s.Packs.ModelPacks() {
		if p == "" {
			bad("model pack %d has no path", i+1)
		}
		if slices.Contains(s.Packs.ModelPacks()[:i], p) {
			bad("model pack %.128q is named twice", p)
		}
	}
	if d := s.DataDisk; d != nil {
		if d.Path == "" {
			bad("data_disk has no path")
		}
		if d.SizeMiB < MinDataMiB || d.SizeMiB > MaxDataMiB {
			bad("data_disk size_mib %d, want %d to %d", d.SizeMiB, MinDataMiB, MaxDataMiB)
		}
		if strings.ContainsAny(d.Path, "\x00\n") || len(d.Path) > 4000 {
			bad("the path of data_disk holds a control character or is too long")
		}
	}
	if h := s.Handover; h != nil {
		switch {
		case h.Manifest == "":
			bad("handover has no manifest")
		case s.TEE == TEEVTPM:
			bad("handover: machines of class vtpm hand nothing over, for their memory is their host's")
		}
		if strings.ContainsAny(h.Manifest+h.Collateral, "\x00\n") || len(h.Manifest) > 4000 || len(h.Collateral) > 4000 {
			bad("a path of handover holds a control character or is too long")
		}
	}
	if s.StopGrace < 0 || s.StopGrace > 600 {
		bad("stop_grace_s %d, want 0 to 600", s.StopGrace)
	}
	if s.Drain < 0 || s.Drain > MaxDrain {
		bad("drain_s %d, want 0 to %d", s.Drain, MaxDrain)
	}
	switch s.Restart {
	case "", RestartNo, RestartOnFailure, RestartAlways:
	default:
		bad("restart %.16q, want no, on-failure or always", s.Restart)
	}
	if s.TPMCA != "" && !ValidName(s.TPMCA) {
		bad("tpm_ca %.64q: want 1 to 40 of a-z, 0-9 and -", s.TPMCA)
	}
	if len(s.FwCfg) > MaxFwCfg {
		bad("%d fw_cfg files, at most %d", len(s.FwCfg), MaxFwCfg)
	}
	for _, name := range s.FwCfgNames() {
		if !fwCfgRE.MatchString(name) || name == ConfigName || name == OperatorName {
			bad("fw_cfg name %.64q: want 1 to 31 of a-z, 0-9, dot, _ and -, neither config.json nor operator.json", name)
		}
		if s.FwCfg[name] == "" {
			bad("fw_cfg %.64q has no file", name)
		}
	}
	errs = append(errs, validateForwards(s.Forwards)...)
	errs = append(errs, s.validateHardware()...)
	for _, p := range append([]string{s.Image, s.Packs.Engine, s.Packs.Model, s.Config, s.Operator, s.Firmware}, s.Packs.Models...) {
		if strings.ContainsAny(p, "\x00\n") || len(p) > 4000 {
			bad("a path holds a control character or is too long")
		}
	}
	return errors.Join(errs...)
}

// FwCfgNames returns the keys of FwCfg in order.
func (s *Spec) FwCfgNames() []string { return sortedKeys(s.FwCfg) }

func sortedKeys(m map[string]string) []string {
	return slices.Sorted(maps.Keys(m))
}

func validateForwards(fs []Forward) []error {
	var errs []error
	if len(fs) > MaxForwards {
		errs = append(errs, fmt.Errorf("%d forwards, at most %d", len(fs), MaxForwards))
	}
	seen := map[string]bool{}
	for i, f := range fs {
		ap, err := netip.ParseAddrPort(f.Guest)
		switch {
		case err != nil || ap.String() != f.Guest:
			errs = append(errs, fmt.Errorf("forward %d: guest %.64q is not address:port", i, f.Guest))
		case !GuestNet.Contains(ap.Addr()) || ap.Port() == 0:
			errs = append(errs, fmt.Errorf("forward %d: guest %s is not a port in %s", i, ap, GuestNet))
		case reserved[ap.Addr()] != "":
			errs = append(errs, fmt.Errorf("forward %d: guest %s is %s's own address", i, ap, reserved[ap.Addr()]))
		case seen[f.Guest]:
			errs = append(errs, fmt.Errorf("forward %d: guest %s is used twice", i, ap))
		}
		seen[f.Guest] = true
		if err := ValidTarget(f.Target); err != nil {
			errs = append(errs, fmt.Errorf("forward %d: %w", i, err))
		}
	}
	return errs
}

// ValidTarget checks the form of a forward's target.
func ValidTarget(target string) error {
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		if !filepath.IsAbs(path) || strings.ContainsAny(path, "\x00\n") || len(path) > 107 {
			return fmt.Errorf("target %.128q: want unix:/absolute/path of at most 107 bytes", target)
		}
		return nil
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil || host == "" || strings.ContainsAny(host, "'\"\\ \t\n\x00") || len(host) > 253 {
		return fmt.Errorf("target %.128q: want host:port or unix:/path", target)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("target %.128q: port is not 1 to 65535", target)
	}
	return nil
}

// Files returns every file that the VM needs, by its role.
func (s *Spec) Files() map[string]string {
	fs := map[string]string{
		"kernel":  filepath.Join(s.Image, KernelFile),
		"initrd":  filepath.Join(s.Image, InitrdFile),
		"root":    filepath.Join(s.Image, RootFile),
		"cmdline": filepath.Join(s.Image, CmdlineFile),
	}
	for role, p := range map[string]string{"engine pack": s.Packs.Engine, "model pack": s.Packs.Model,
		"config": s.Config, "operator": s.Operator, "firmware": s.Firmware} {
		if p != "" {
			fs[role] = p
		}
	}
	for i, p := range s.Packs.Models {
		fs[fmt.Sprintf("model pack %d", i+2)] = p
	}
	if s.SNP != nil && s.SNP.IDBlock != "" {
		fs["ID block"], fs["ID authentication"] = s.SNP.IDBlock, s.SNP.IDAuth
	}
	if h := s.Handover; h != nil {
		fs["manifest"] = h.Manifest
		if h.Collateral != "" {
			fs["collateral"] = h.Collateral
		}
	}
	for name, p := range s.FwCfg {
		fs["fw_cfg "+name] = p
	}
	return fs
}

// CheckFiles reports every file that is missing, not regular or, for fw_cfg,
// too large, and model packs whose keys the guest would not get.
func (s *Spec) CheckFiles() error {
	fs := s.Files()
	var errs []error
	for _, role := range sortedKeys(fs) {
		fi, err := os.Stat(fs[role])
		switch {
		case err != nil:
			errs = append(errs, fault.New(fault.ExitNotReady, "vm.file.missing", "build the image and the packs first, or correct the path in the spec", "opening %s: %w", role, err))
		case !fi.Mode().IsRegular():
			errs = append(errs, fault.New(fault.ExitParse, "vm.file.irregular", "name a regular file", "opening %s: %s is not a regular file", role, fs[role]))
		case fi.Size() > MaxFwCfgSize && (role == "config" || role == "operator" || role == "cmdline" || strings.HasPrefix(role, "fw_cfg ")):
			errs = append(errs, fault.New(fault.ExitParse, "vm.file.too_large", "shorten the file", "opening %s: %s has %d bytes, at most %d", role, fs[role], fi.Size(), MaxFwCfgSize))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return s.checkModelKeys()
}

// Cmdline reads the kernel command line of the image: the file's content
// without one trailing newline.
func (s *Spec) Cmdline() (string, error) {
	b, err := readLimited(filepath.Join(s.Image, CmdlineFile), 4096)
	if err != nil {
		return "", fmt.Errorf("reading command line: %w", err)
	}
	line := strings.TrimSuffix(string(b), "\n")
	for i := 0; i < len(line); i++ {
		if line[i] < 0x20 || line[i] > 0x7e {
			return "", fault.New(fault.ExitParse, "vm.cmdline.malformed", "rebuild the image", "reading command line: byte %#x at %d is not printable ASCII", line[i], i)
		}
	}
	return line, nil
}

// Marshal returns the spec as indented JSON.
func (s *Spec) Marshal() ([]byte, error) { return json.MarshalIndent(s, "", "  ") }

func readLimited(path string, limit int64) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > limit {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}
