package main

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/compare"
	"cocoon/measurements/digest"
	"cocoon/measurements/launch"
	"cocoon/measurements/pcr"
	"cocoon/measurements/snp"
	"cocoon/measurements/tdvf"
)

// Kinds of guests that "cocoon measure snp" knows.
const (
	modeSNP   = "snp"
	modeSVSM  = "snp-svsm"
	modeSEVES = "sev-es"
	modeSEV   = "sev"
)

// snpFlags are the flags of "cocoon measure snp".
type snpFlags struct {
	boot       bootFlags
	mode       string
	vcpus      []int
	vcpuTypes  []string
	vmm        string
	features   string
	ovmfDigest string
	svsm       string
	varsSize   uint32
	idKey      string
	authorKey  string
	policy     string
	svn        uint32
}

func newMeasureSNPCmd() *cobra.Command {
	f := &snpFlags{}
	cmd := &cobra.Command{
		Use:   "snp --firmware FILE --image DIR",
		Short: "compute an SEV-SNP guest's launch digest",
		Long: `Compute the launch digest that an AMD processor reports for a guest: of SEV-SNP,
of SEV-SNP under an SVSM, or the measurement of SEV-ES and SEV (--mode). It
depends on the number of vCPUs and their model; both flags may be repeated.
Without kernel the firmware boots from a disk, and the digest proves the
firmware alone.

With --id-key it also prints the ID block for QEMU's sev-snp-guest object, which
makes the processor refuse every other launch.`,
		Example: `  cocoon measure snp --firmware OVMF.amdsev.fd --image build/image --vcpus 2 --vcpu-type EPYC-Milan
  cocoon measure snp --firmware OVMF.amdsev.fd --image build/image --vcpus 1 --vcpus 4 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := f.run()
			if err != nil {
				return err
			}
			return f.boot.save(cmd.OutOrStdout(), r, r.write)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&f.boot.firmware, "firmware", "", "firmware `file`")
	fs.StringVar(&f.boot.image, "image", "", "`directory` with vmlinuz, initrd and cmdline")
	fs.StringVar(&f.boot.kernel, "kernel", "", "kernel `file`, in place of --image")
	fs.StringVar(&f.boot.initrd, "initrd", "", "initrd `file`, in place of --image")
	fs.StringVar(&f.boot.cmdline, "cmdline", "", "`file` with the kernel command line, in place of --image")
	fs.StringVar(&f.boot.append, "append", "", "the kernel command line itself, as `text`")
	fs.StringVar(&f.mode, "mode", modeSNP, "kind of guest: `snp, snp-svsm, sev-es or sev`")
	fs.IntSliceVar(&f.vcpus, "vcpus", []int{1}, "`number` of vCPUs; may be repeated")
	fs.StringSliceVar(&f.vcpuTypes, "vcpu-type", []string{"EPYC-v4"}, "QEMU's CPU `model`; may be repeated")
	fs.StringVar(&f.vmm, "vmm", string(snp.QEMU), "`qemu, ec2 or gce`")
	fs.StringVar(&f.features, "features", "0x1", "SEV_FEATURES of the vCPUs, a `number`")
	fs.StringVar(&f.ovmfDigest, "ovmf-digest", "", "launch digest after the firmware's own pages, in `hex`: their contents are then not looked at")
	fs.StringVar(&f.svsm, "svsm", "", "SVSM `file` (--mode snp-svsm)")
	fs.Uint32Var(&f.varsSize, "vars-size", 0, "`bytes` of the firmware's variables, below which the SVSM ends (--mode snp-svsm)")
	fs.StringVar(&f.idKey, "id-key", "", "sign an ID block with the P-384 key in this PEM `file`")
	fs.StringVar(&f.authorKey, "author-key", "", "sign the ID key with the P-384 key in this PEM `file`")
	fs.StringVar(&f.policy, "policy", "0x30000", "guest policy in the ID block, a `number`")
	fs.Uint32Var(&f.svn, "guest-svn", 0, "security version `number` in the ID block")
	fs.StringVarP(&f.boot.out, "out", "o", "", "write the result as JSON to this `file`, for cocoon measure diff")
	fs.BoolVar(&f.boot.json, "json", false, "write the result as JSON")
	_ = cmd.MarkFlagRequired("firmware")
	return cmd
}

func (f *snpFlags) run() (*teeReport, error) {
	b, err := readInput("--firmware", f.boot.firmware, tdvf.MaxSize)
	if err != nil {
		return nil, err
	}
	fw, err := tdvf.Parse(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "measure.firmware", "give an OVMF binary", "%w", err)
	}
	r := newTEEReport(&launch.Firmware{Name: firmwareName(f.boot.firmware), SHA256: fw.SHA256()})
	r.Components = append(r.Components, compare.Component{Register: "SNP", Name: "firmware", Source: r.Firmware, Digest: r.FirmwareSHA256.String()})
	kernel, err := f.readKernel(r)
	if err != nil {
		return nil, err
	}
	features, err := strconv.ParseUint(f.features, 0, 64)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "usage", "give a number such as 0x1", "reading --features: %w", err)
	}
	var last digest.SHA384
	for _, n := range f.vcpus {
		for _, model := range f.vcpuTypes {
			shape := snp.Shape{VMM: snp.VMM(f.vmm), VCPUs: n, VCPUType: model, Features: features}
			if shape.VMM != snp.QEMU {
				shape.VCPUType = ""
			}
			name, value, err := f.measure(fw, kernel, shape, &last)
			if err != nil {
				return nil, fault.New(fault.ExitParse, "measure.snp", "check firmware, vCPUs and mode", "%w", err)
			}
			r.Registers[name] = value
		}
	}
	if f.idKey != "" {
		return r, f.signID(r, last)
	}
	return r, nil
}

func (f *snpFlags) measure(fw *tdvf.Firmware, kernel *snp.Kernel, shape snp.Shape, last *digest.SHA384) (name, value string, err error) {
	switch f.mode {
	case modeSNP:
		var parts snp.Firmware
		if parts, err = snp.ReadFirmware(fw); err != nil {
			return "", "", err
		}
		if f.ovmfDigest != "" {
			if parts.Digest, err = digest.Parse384(f.ovmfDigest); err != nil {
				return "", "", err
			}
		}
		*last, err = snp.Measure(parts, kernel, shape)
		return "SNP " + shape.String(), last.String(), err
	case modeSVSM:
		b, err := readInput("--svsm", f.svsm, tdvf.MaxSize)
		if err != nil {
			return "", "", err
		}
		svsm, err := tdvf.Parse(b)
		if err != nil {
			return "", "", err
		}
		*last, err = snp.MeasureSVSM(fw, svsm, f.varsSize, shape)
		return "SNP SVSM " + shape.String(), last.String(), err
	case modeSEVES:
		d, err := snp.MeasureSEVES(fw, kernel, shape)
		return "SEV-ES " + shape.String(), d.String(), err
	case modeSEV:
		d, err := snp.MeasureSEV(fw, kernel)
		return "SEV", d.String(), err
	}
	return "", "", fmt.Errorf("mode %.16q is unknown, want snp, snp-svsm, sev-es or sev", f.mode)
}

// readKernel returns the hashes of a direct boot, nil without a kernel.
func (f *snpFlags) readKernel(r *teeReport) (*snp.Kernel, error) {
	if f.boot.image == "" && f.boot.kernel == "" {
		r.note("no kernel: the digest proves the firmware, not what it boots")
		return nil, nil
	}
	var kernel, initrd []byte
	var cmdline string
	var err error
	if f.boot.image != "" {
		kernel, initrd, cmdline, err = f.boot.readFiles()
	} else {
		// QEMU takes a kernel without initrd and without a command line.
		cmdline = f.boot.append
		kernel, err = readInput("--kernel", f.boot.kernel, maxKernel)
		if err == nil && f.boot.initrd != "" {
			initrd, err = readInput("--initrd", f.boot.initrd, maxInitrd)
		}
		if err == nil && f.boot.cmdline != "" {
			var b []byte
			b, err = readInput("--cmdline", f.boot.cmdline, pcr.MaxCmdline)
			cmdline = string(b)
		}
	}
	if err != nil {
		return nil, err
	}
	k := snp.HashKernel(kernel, initrd, cmdline)
	for _, c := range []struct {
		name, source string
		d            digest.SHA256
	}{{"command line", "cmdline", k.Cmdline}, {"initrd", "initrd", k.Initrd}, {"kernel", "vmlinuz", k.Kernel}} {
		r.Components = append(r.Components, compare.Component{Register: "SNP", Name: c.name, Source: c.source, Digest: c.d.String()})
	}
	return k, nil
}

// signID adds the ID block for the one launch that was computed.
func (f *snpFlags) signID(r *teeReport, ld digest.SHA384) error {
	if len(r.Registers) != 1 || f.mode != modeSNP && f.mode != modeSVSM {
		return fault.New(fault.ExitInternal, "usage", "give one number of vCPUs and one model", "signing ID block: it names exactly one launch digest")
	}
	policy, err := strconv.ParseUint(f.policy, 0, 64)
	if err != nil {
		return fault.New(fault.ExitInternal, "usage", "give a number such as 0x30000", "reading --policy: %w", err)
	}
	id, err := readP384("--id-key", f.idKey)
	if err != nil {
		return err
	}
	var author *ecdsa.PrivateKey
	if f.authorKey != "" {
		if author, err = readP384("--author-key", f.authorKey); err != nil {
			return err
		}
	}
	b := &snp.IDBlock{Digest: ld, GuestSVN: f.svn, Policy: policy}
	auth, err := snp.SignIDBlock(b, id, author)
	if err != nil {
		return fault.New(fault.ExitParse, "measure.id_key", "make one with openssl ecparam -name secp384r1 -genkey", "%w", err)
	}
	r.Registers["ID key digest"] = auth.IDKeyDigest().String()
	if author != nil {
		r.Registers["author key digest"] = auth.AuthorKeyDigest().String()
	}
	r.note("id-block=%s", base64.StdEncoding.EncodeToString(b.Bytes()))
	r.note("id-auth=%s", base64.StdEncoding.EncodeToString(auth.Bytes()))
	return nil
}

// readP384 reads a private key, PKCS #8 or SEC 1, in PEM.
func readP384(flag, path string) (*ecdsa.PrivateKey, error) {
	b, err := readInput(flag, path, 64<<10)
	if err != nil {
		return nil, err
	}
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
			return k, nil
		}
		if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
			if k, ok := k.(*ecdsa.PrivateKey); ok {
				return k, nil
			}
		}
	}
	return nil, fault.New(fault.ExitParse, "measure.id_key", "make one with openssl ecparam -name secp384r1 -genkey", "reading %s: %w", flag, errors.New("no EC private key in PEM"))
}
