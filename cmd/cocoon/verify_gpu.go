package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/spdm"
	policy "cocoon/verifier/policy/nvgpu"
)

// verifyGPUFlags are the flags of "cocoon verify gpu".
type verifyGPUFlags struct {
	nras, nrasKeys  string
	reports, chains []string
	evidence        string
	nonce           string
	arch            string
	gpus            int
	rims, ocsps     []string
	noRIM           bool
	at              string
	policy          string
	roots           string
	json            bool
}

// Limits of input files in bytes.
const (
	maxGPUChain    = 64 << 10
	maxGPUEvidence = 2 << 20
)

func newVerifyGPUCmd() *cobra.Command {
	f := &verifyGPUFlags{}
	cmd := &cobra.Command{
		Use:   "gpu (--report FILE --chain FILE | --evidence FILE) --nonce HEX",
		Short: "verify the evidence of NVIDIA GPUs and NVSwitches",
		Long: `Verifies, offline, what the NVIDIA GPUs and NVSwitches of one machine attest:
certificates up to NVIDIA's pinned root, signature, nonce, firmware ID,
revocation, measurements against NVIDIA's signed RIMs, and whether the devices
are one machine. Without --policy every device must be measured, while
revocation is looked at only where --ocsp shows it.

Exit codes: 0 accepted; 1 usage; 2 refused by cryptography, binding, revocation
or measurements; 4 refused by policy alone; 5 unparsable input.`,
		Example: `  cocoon verify gpu --report report.bin --chain chain.pem --nonce 931d… --rim driver.xml --rim vbios.xml
  cocoon verify gpu --evidence machine.json --nonce 931d… --rim driver.xml --rim vbios.xml --rim bios.xml --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVerifyGPU(cmd, f) },
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&f.reports, "report", nil, "attestation report, a `file`; once for each device, in the order of --chain")
	fs.StringArrayVar(&f.chains, "chain", nil, "the device's certificate chain, a PEM `file`, leaf first")
	fs.StringVar(&f.evidence, "evidence", "", "a JSON `file` with a list of reports and chains, instead of --report and --chain")
	fs.StringVar(&f.nonce, "nonce", "", "require this nonce, 32 bytes in `hex`, in every report")
	fs.StringVar(&f.arch, "arch", "", "require this architecture: hopper, blackwell or ls10")
	fs.IntVar(&f.gpus, "gpus", 0, "require this number of GPUs, `N`")
	fs.StringArrayVar(&f.rims, "rim", nil, "reference integrity manifest, a `file`; may be repeated")
	fs.StringArrayVar(&f.ocsps, "ocsp", nil, "OCSP response, a DER `file`; may be repeated")
	fs.StringVar(&f.nras, "nras", "", "also verify the answer of NVIDIA's attestation service about these GPUs, a JSON `file`; it can only refuse")
	fs.StringVar(&f.nrasKeys, "nras-keys", "", "the service's key set (JWKS) of the day of the answer, a `file`")
	fs.BoolVar(&f.noRIM, "no-rim", false, "report measurements as skipped where there is no RIM; not accepted unless the policy allows it")
	fs.StringVar(&f.at, "at", "", "verify at this `time`, RFC 3339 or Unix seconds; without it now")
	fs.StringVar(&f.policy, "policy", "", "appraise by the policy in this JSON `file`")
	fs.StringVar(&f.roots, "roots", "", "trust the roots in this PEM `file` instead of NVIDIA's; for tests")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	_ = cmd.MarkFlagRequired("nonce")
	cmd.MarkFlagsOneRequired("report", "evidence")
	cmd.MarkFlagsRequiredTogether("nras", "nras-keys")
	cmd.MarkFlagsMutuallyExclusive("report", "evidence")
	cmd.MarkFlagsMutuallyExclusive("chain", "evidence")
	return cmd
}

func runVerifyGPU(cmd *cobra.Command, f *verifyGPUFlags) error {
	items, o, p, err := f.read()
	if err != nil {
		return err
	}
	m := nvgpu.Verify(items, o)
	opinion, err := f.opinion(m, o)
	if err != nil {
		return err
	}
	return newGPUReport(m, o, p, opinion).write(cmd.OutOrStdout(), f.json)
}

// read reads every input; the error joins what is wrong with any of them.
func (f *verifyGPUFlags) read() ([]nvgpu.Item, *nvgpu.Options, *policy.Policy, error) {
	o := &nvgpu.Options{GPUs: f.gpus}
	var errs []error
	keep := func(err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		return err == nil
	}
	var err error
	o.Now, err = parseAt(f.at)
	keep(err)
	p := policy.Default()
	p.OCSP.AllowMissing = true // shown as skipped, and warned of
	if f.policy != "" {
		if doc, err := readInput("--policy", f.policy, policy.MaxSize); keep(err) {
			if q, err := policy.Parse(doc); keep(err) {
				p = q
			}
		}
	}
	p.Apply(o)
	o.NoRIM = o.NoRIM || f.noRIM
	keep(f.readRoots(o))
	if n, err := hex.DecodeString(f.nonce); err != nil || len(n) != len(o.Nonce) {
		keep(usage("reading --nonce: not %d bytes of hex", len(o.Nonce)))
	} else {
		copy(o.Nonce[:], n)
	}
	if f.gpus < 0 || f.gpus > nvgpu.MaxDevices {
		keep(usage("reading --gpus: %d, want 1 to %d", f.gpus, nvgpu.MaxDevices))
	}
	for _, path := range f.rims {
		if doc, err := readInput("--rim", path, rim.MaxDocument); keep(err) {
			o.RIMs = append(o.RIMs, doc)
		}
	}
	for _, path := range f.ocsps {
		if der, err := readInput("--ocsp", path, ocsp.MaxResponse); keep(err) {
			o.OCSP = append(o.OCSP, der)
		}
	}
	items, err := f.items()
	keep(err)
	if f.arch != "" {
		if a, err := nvgpu.ParseArch(f.arch); err != nil {
			keep(usage("reading --arch: %v", err))
		} else {
			for i := range items {
				items[i].Arch = a
			}
		}
	}
	return items, o, p, errors.Join(errs...)
}

// items reads the devices' evidence.
func (f *verifyGPUFlags) items() ([]nvgpu.Item, error) {
	if f.evidence != "" {
		doc, err := readInput("--evidence", f.evidence, maxGPUEvidence)
		if err != nil {
			return nil, err
		}
		items, _, err := parseGPUList(doc)
		return items, err
	}
	if len(f.reports) != len(f.chains) {
		return nil, usage("%d --report and %d --chain: give one of each for a device", len(f.reports), len(f.chains))
	}
	var errs []error
	out := make([]nvgpu.Item, len(f.reports))
	for i := range f.reports {
		var err error
		if out[i].Report, err = readInput("--report", f.reports[i], 2*spdm.MaxReport); err != nil {
			errs = append(errs, err)
		}
		chain, err := readInput("--chain", f.chains[i], maxGPUChain)
		if err == nil {
			out[i].Chain, err = splitGPUChain(chain)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// gpuEntry is one device in a list: as the project's evidence has it (report,
// chain), or as NVIDIA's attestation SDK writes it (evidence, certificate,
// arch). The versions and the nonce beside the latter are nobody's word: what
// counts is in the report.
type gpuEntry struct {
	Report []byte   `json:"report"`
	Chain  [][]byte `json:"chain"`

	Evidence      []byte `json:"evidence"`
	Certificate   []byte `json:"certificate"` // PEM, base64 again
	Arch          string `json:"arch"`
	Nonce         string `json:"nonce"`
	Version       string `json:"version"`
	DriverVersion string `json:"driver_version"`
	VBIOSVersion  string `json:"vbios_version"`
	UUID          string `json:"uuid"`
}

// parseGPUList returns the devices of a list, and what stands beside each as
// its nonce.
func parseGPUList(doc []byte) (out []nvgpu.Item, nonces []string, err error) {
	bad := func(err error) ([]nvgpu.Item, []string, error) {
		return nil, nil, fault.New(fault.ExitParse, "gpu.evidence.parse", "give a list of {report, chain}, or NVIDIA's {arch, evidence, certificate}", "reading --evidence: %w", err)
	}
	var list []gpuEntry
	if err := jcs.Decode(doc, maxGPUEvidence, &list); err != nil {
		return bad(err)
	}
	out = make([]nvgpu.Item, len(list))
	for i, e := range list {
		nonces = append(nonces, e.Nonce)
		switch {
		case e.Report != nil && e.Evidence == nil && e.Certificate == nil:
			out[i] = nvgpu.Item{Report: e.Report, Chain: e.Chain}
		case e.Evidence != nil && e.Report == nil && e.Chain == nil:
			chain, err := splitGPUChain(e.Certificate)
			if err != nil {
				return nil, nil, err
			}
			out[i] = nvgpu.Item{Report: e.Evidence, Chain: chain}
		default:
			return bad(fmt.Errorf("entry %d is neither of both", i))
		}
		if e.Arch != "" {
			a, err := nvgpu.ParseArch(e.Arch)
			if err != nil {
				return bad(fmt.Errorf("entry %d: %w", i, err))
			}
			out[i].Arch = a
		}
	}
	return out, nonces, nil
}

// splitGPUChain returns the DER of each certificate of a PEM chain, with
// nothing but white space around them. How many they must be, the verification
// says.
func splitGPUChain(chain []byte) ([][]byte, error) {
	bad := func(format string, args ...any) error {
		return fault.New(fault.ExitParse, "gpu.chain.parse", "give the certificates in PEM, leaf first", "reading the certificate chain: "+format, args...)
	}
	const begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
	var out [][]byte
	for rest := bytes.Trim(chain, "\x00\r\n\t "); len(rest) > 0; rest = bytes.TrimLeft(rest, "\r\n\t ") {
		body, ok := bytes.CutPrefix(rest, []byte(begin))
		body, more, closed := bytes.Cut(body, []byte(end))
		if !ok || !closed || len(out) == 16 {
			return nil, bad("certificate %d is not PEM", len(out)+1)
		}
		der := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
		n, err := base64.StdEncoding.Strict().Decode(der, body) // ignores line ends
		if err != nil {
			return nil, bad("certificate %d: %w", len(out)+1, err)
		}
		out, rest = append(out, der[:n]), more
	}
	if len(out) == 0 {
		return nil, bad("there is no certificate")
	}
	return out, nil
}

// readRoots reads --roots: every certificate counts as a device root and as a
// root of RIM signers.
func (f *verifyGPUFlags) readRoots(o *nvgpu.Options) error {
	if f.roots == "" {
		return nil
	}
	doc, err := readInput("--roots", f.roots, maxGPUChain)
	if err != nil {
		return err
	}
	bad := func(err error) error {
		return fault.New(fault.ExitParse, "gpu.roots.parse", "give self-signed P-384 certificates in PEM", "reading --roots: %w", err)
	}
	if o.RIMRoots, err = rim.ParseRoots(doc); err != nil {
		return bad(err)
	}
	var pins [][32]byte
	for block, rest := pem.Decode(doc); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return bad(err)
		}
		pins = append(pins, sha256.Sum256(c.RawSubjectPublicKeyInfo))
	}
	if o.Roots, err = nvgpu.PinRoots(pins...); err != nil {
		return bad(err)
	}
	return nil
}

// shortID is a check's ID as the report shows it: every one is of a GPU there.
func shortID(id string) string { return strings.TrimPrefix(id, "gpu.") }
