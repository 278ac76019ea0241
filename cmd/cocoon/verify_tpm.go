package main

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
)

// maxTPMInput bounds the small inputs of "cocoon verify tpm".
const maxTPMInput = 256 << 10

// verifyTPMFlags are the flags of "cocoon verify tpm".
type verifyTPMFlags struct {
	quote, signature       string
	ak, akCert, akRoots    string
	ekRoots                string
	eventLog, pcrs, policy string
	qualifying             string
	claims, nonce          string
	at                     string
	json                   bool
}

func newVerifyTPMCmd() *cobra.Command {
	f := &verifyTPMFlags{}
	cmd := &cobra.Command{
		Use:   "tpm --quote FILE --signature FILE (--ak FILE | --ak-cert FILE) [--event-log FILE] [--pcrs FILE]",
		Short: "verify a TPM 2.0 quote and its event log",
		Long: `Verifies a TPM 2.0 quote: the signature by an attestation key, what the quote
carries, the registers it is over, and that the event log has the form of a
measured boot and replays to them.

The key is one that you trust (--ak), or one that a certificate vouches for
(--ak-cert), which leads to --ak-roots or to the roots of --policy. Registers
come from --event-log, from --pcrs, or from both, which must agree.

Exit codes: 0 accepted; 1 usage; 2 refused by cryptography or binding;
4 refused by policy alone; 5 unparsable input.`,
		Example: `  cocoon verify tpm --quote quote.msg --signature quote.sig --ak ak.pub --event-log binary_bios_measurements --qualifying-data 00ff
  cocoon verify tpm --quote quote.msg --signature quote.sig --ak-cert ak.pem --policy policy.json --pcrs pcrs.yaml --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVerifyTPM(cmd, f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.quote, "quote", "", "the quote, a `file` with a TPMS_ATTEST: raw bytes, hex or base64")
	fs.StringVar(&f.signature, "signature", "", "the quote's signature, a `file` with a TPMT_SIGNATURE: raw bytes, hex or base64")
	fs.StringVar(&f.ak, "ak", "", "trust the attestation key in this `file`: TPMT_PUBLIC, TPM2B_PUBLIC or a PEM public key")
	fs.StringVar(&f.akCert, "ak-cert", "", "PEM `file` with the attestation key's certificate and those above it")
	fs.StringVar(&f.akRoots, "ak-roots", "", "trust the authorities in this PEM `file` for attestation keys")
	fs.StringVar(&f.ekRoots, "ek-roots", "", "accept keys that were enrolled under the TPM makers in this PEM `file` only")
	fs.StringVar(&f.eventLog, "event-log", "", "the firmware's event log, a `file` in the crypto-agile form")
	fs.StringVar(&f.pcrs, "pcrs", "", "values of the registers, a `file`: JSON, or what tpm2_pcrread prints")
	fs.StringVar(&f.policy, "policy", "", "take roots and trust classes from the policy in this JSON `file`")
	fs.StringVar(&f.qualifying, "qualifying-data", "", "require this qualifying data, `hex`, in the quote")
	fs.StringVar(&f.claims, "claims", "", "require that the quote was made over the claims in this JSON `file`")
	fs.StringVar(&f.nonce, "nonce", "", "require this nonce, `hex`, in the claims (needs --claims)")
	fs.StringVar(&f.at, "at", "", "judge as of this `time`, RFC 3339 or Unix seconds (default now)")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	_ = cmd.MarkFlagRequired("quote")
	_ = cmd.MarkFlagRequired("signature")
	cmd.MarkFlagsMutuallyExclusive("ak", "ak-cert")
	cmd.MarkFlagsOneRequired("ak", "ak-cert")
	cmd.MarkFlagsMutuallyExclusive("ak", "policy")
	cmd.MarkFlagsMutuallyExclusive("ak", "ak-roots")
	cmd.MarkFlagsMutuallyExclusive("ak", "ek-roots")
	cmd.MarkFlagsMutuallyExclusive("policy", "ak-roots")
	cmd.MarkFlagsMutuallyExclusive("policy", "ek-roots")
	cmd.MarkFlagsMutuallyExclusive("claims", "qualifying-data")
	cmd.MarkFlagsOneRequired("event-log", "pcrs")
	return cmd
}

// tpmInputs is what the flags name, read and parsed.
type tpmInputs struct {
	ev     tpm.Evidence
	o      tpm.Options
	policy *policy.Policy
	claims *evidence.Claims
	nonce  *digest.SHA256
}

// read reads every input; the error joins what is wrong with any of them.
func (f *verifyTPMFlags) read() (*tpmInputs, error) {
	in := &tpmInputs{o: tpm.Options{AnySelection: true}}
	var errs []error
	keep := func(err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		return err == nil
	}
	var err error
	in.o.Now, err = parseAt(f.at)
	keep(err)
	if b, err := readInput("--quote", f.quote, maxTPMInput); keep(err) {
		in.ev.Attest = decodeText(b, 0xff)
		// Another type of attestation is one that a check refuses.
		if _, err := tpm.ParseQuote(in.ev.Attest); err != nil && !errors.Is(err, tpm.ErrNotQuote) {
			keep(fault.New(fault.ExitParse, "tpm.quote.parse", "give the TPMS_ATTEST that TPM2_Quote returned, whole", "reading --quote: %w", err))
		}
	}
	if b, err := readInput("--signature", f.signature, maxTPMInput); keep(err) {
		in.ev.Signature = decodeText(b, 0)
		if err := tpm.ParseSignature(in.ev.Signature); err != nil {
			keep(fault.New(fault.ExitParse, "tpm.signature.parse", "give the TPMT_SIGNATURE that TPM2_Quote returned, whole", "reading --signature: %w", err))
		}
	}
	keep(f.readKey(in))
	if f.eventLog != "" {
		if in.ev.EventLog, err = readInput("--event-log", f.eventLog, eventlog.MaxSize); keep(err) {
			if _, err := eventlog.ParseTPM(in.ev.EventLog); err != nil {
				keep(fault.New(fault.ExitParse, "eventlog.parse", "give the log as the kernel shows it: /sys/kernel/security/tpm0/binary_bios_measurements", "reading --event-log: %w", err))
			}
		}
	}
	if f.pcrs != "" {
		if b, err := readInput("--pcrs", f.pcrs, maxTPMInput); keep(err) {
			if in.ev.PCRs, err = parsePCRs(b); err != nil {
				keep(fault.New(fault.ExitParse, "tpm.pcrs.parse", "give what tpm2_pcrread prints, or JSON such as {\"sha256\":{\"0\":\"00…\"}}", "reading --pcrs: %w", err))
			}
		}
	}
	keep(f.readData(in))
	return in, errors.Join(errs...)
}

// readKey reads the key, or the certificates and the roots.
func (f *verifyTPMFlags) readKey(in *tpmInputs) error {
	if f.ak != "" {
		b, err := readInput("--ak", f.ak, maxTPMInput)
		if err != nil {
			return err
		}
		if in.o.Key, in.o.Public, err = tpm.ParseKey(b); err != nil {
			return fault.New(fault.ExitParse, "tpm.ak.parse", "give the key's TPMT_PUBLIC, TPM2B_PUBLIC or PEM", "reading --ak: %w", err)
		}
		return nil
	}
	if f.policy == "" && f.akRoots == "" {
		return usage("--ak-cert needs --ak-roots or --policy: a certificate that nobody trusts says nothing")
	}
	var errs []error
	der := func(flag, path string) [][]byte {
		if path == "" {
			return nil
		}
		b, err := readInput(flag, path, maxTPMInput)
		if err == nil {
			var out [][]byte
			if out, err = pemCertificates(b); err == nil {
				return out
			}
			err = fault.New(fault.ExitParse, "tpm.certificate.parse", "give certificates in PEM", "reading %s: %w", flag, err)
		}
		errs = append(errs, err)
		return nil
	}
	roots := func(flag string, certs [][]byte) []*x509.Certificate {
		out, err := tpm.ParseRoots(certs)
		if err != nil {
			errs = append(errs, fault.New(fault.ExitParse, "tpm.certificate.parse", "give certificates in PEM", "reading %s: %w", flag, err))
		}
		return out
	}
	in.ev.CertChain = der("--ak-cert", f.akCert)
	if _, err := tpm.ParseRoots(in.ev.CertChain); err != nil {
		errs = append(errs, fault.New(fault.ExitParse, "tpm.certificate.parse", "give certificates in PEM", "reading --ak-cert: %w", err))
	}
	in.o.AKRoots, in.o.EKRoots = roots("--ak-roots", der("--ak-roots", f.akRoots)), roots("--ek-roots", der("--ek-roots", f.ekRoots))
	if f.policy == "" {
		return errors.Join(errs...)
	}
	doc, err := readInput("--policy", f.policy, policy.MaxSize)
	if err == nil {
		if in.policy, err = policy.Parse(doc); err != nil {
			err = fault.New(fault.ExitParse, "policy.parse", "correct the policy", "%w", err)
		} else if t := in.policy.TPM; t != nil {
			in.o.AKRoots, in.o.EKRoots, in.o.DevelopmentEKRoots = roots("--policy", t.AKRoots), roots("--policy", t.EKRoots), roots("--policy", t.DevelopmentEKRoots)
		}
	}
	return errors.Join(append(errs, err)...)
}

// readData reads what the quote must carry.
func (f *verifyTPMFlags) readData(in *tpmInputs) error {
	switch {
	case f.nonce != "" && f.claims == "":
		return usage("--nonce needs --claims: the nonce is one of the claims that the quote is made over")
	case f.claims != "":
		doc, err := readInput("--claims", f.claims, 2*evidence.MaxClaims)
		if err != nil {
			return err
		}
		canonical, err := jcs.Canonical(doc)
		if err == nil {
			in.claims, err = evidence.ParseClaims(canonical)
		}
		if err != nil {
			return fault.New(fault.ExitParse, "claims.parse", "give the claims of the evidence as they were served", "reading --claims: %w", err)
		}
		q, err := in.claims.QualifyingData()
		if err != nil {
			return err
		}
		in.o.QualifyingData = q[:]
		if f.nonce != "" {
			n, err := digest.Parse256(strings.ToLower(f.nonce))
			if err != nil {
				return usage("reading --nonce: not 32 bytes of hex")
			}
			in.nonce = &n
		}
	case f.qualifying != "":
		b, err := hex.DecodeString(strings.TrimPrefix(f.qualifying, "0x"))
		if err != nil || len(b) > 64 {
			return usage("reading --qualifying-data: not hex of at most 64 bytes")
		}
		in.o.QualifyingData = b
	default:
		in.o.AnyQualifyingData = true
	}
	return nil
}

func runVerifyTPM(cmd *cobra.Command, f *verifyTPMFlags) error {
	in, err := f.read()
	rep := &tpmReport{TEE: "tpm", Time: in.o.Now, Measurements: map[string]string{}, Checks: []result.Check{}}
	if fault.ExitCode(err) == fault.ExitInternal {
		return err // flags and files: there is no verdict to report
	}
	if err == nil {
		rep.fill(tpm.Verify(&in.ev, &in.o), in)
	}
	rep.finish(err)
	return rep.write(cmd.OutOrStdout(), f.json)
}

// pemCertificates returns the DER of every certificate in a PEM file, and
// refuses anything else in it.
func pemCertificates(b []byte) ([][]byte, error) {
	var out [][]byte
	for len(strings.TrimSpace(string(b))) > 0 {
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("not certificates in PEM")
		}
		out = append(out, block.Bytes)
		b = rest
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate")
	}
	return out, nil
}
