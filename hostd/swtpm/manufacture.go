package swtpm

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/internal/undo"
)

// Handles of the TCG EK Credential Profile (section 2.2.1.4) and of the TPM
// 2.0 Provisioning Guidance (section 7.8).
const (
	NVEKCertificate = 0x01c00002 // certificate of the RSA-2048 EK, template L-1
	HandleEK        = 0x81010001
)

const ekFile = "ek.pem"

// Manufacture makes sure that dir holds a software TPM whose endorsement key
// has a certificate by ca, and returns that certificate. A TPM that another
// authority certified is made anew: it becomes another TPM.
//
// As a manufacturer would: SHA-256 is the only PCR bank, the EK follows the
// RSA-2048 template L-1 and is persistent, its certificate lies in NV where
// the guest reads it.
func Manufacture(ctx context.Context, tools Tools, dir string, ca *CA) (cert *x509.Certificate, err error) {
	if cert, err := readEK(dir); err == nil && cert.CheckSignatureFrom(ca.Root) == nil && ca.now().Before(cert.NotAfter) {
		return cert, nil
	}
	var u undo.Stack
	defer u.UndoInto(&err)
	tmp := dir + ".new"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o700)); err != nil {
		return nil, fault.New(fault.ExitInternal, "vm.tpm.state", "check that the state directory is writable and has space", "making TPM state: %w", err)
	}
	u.Push("removing TPM state", func() error { return os.RemoveAll(tmp) })
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	// A changed bank allocation takes effect at the next power-on.
	if err := powered(ctx, tools, tmp, allocateSHA256); err != nil {
		return nil, err
	}
	if err := powered(ctx, tools, tmp, func(t transport.TPM) error {
		cert, err = endorse(t, ca)
		return err
	}); err != nil {
		return nil, err
	}
	if err := durable.Write(filepath.Join(tmp, ekFile), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o644); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll(dir), os.Rename(tmp, dir)); err != nil {
		return nil, fmt.Errorf("placing TPM state: %w", err)
	}
	u.Keep()
	return cert, nil
}

func readEK(dir string) (*x509.Certificate, error) {
	b, err := os.ReadFile(filepath.Join(dir, ekFile))
	if err != nil {
		return nil, err
	}
	p, _ := pem.Decode(b)
	if p == nil {
		return nil, errors.New("not PEM")
	}
	return x509.ParseCertificate(p.Bytes)
}

// powered runs f on the TPM between power-on and an orderly shutdown.
func powered(ctx context.Context, tools Tools, dir string, f func(transport.TPM) error) (err error) {
	p, conn, err := startDirect(ctx, tools, dir)
	if err != nil {
		return err
	}
	defer func() {
		conn.Close()
		err = errors.Join(err, p.Close())
	}()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	t := Channel{conn}
	if _, err := (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(t); err != nil {
		return fmt.Errorf("starting software TPM: %w", p.explain(err))
	}
	if err := f(t); err != nil {
		return err
	}
	if _, err := (tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}).Execute(t); err != nil {
		return fmt.Errorf("shutting software TPM down: %w", err)
	}
	return nil
}

// allocateSHA256 leaves SHA-256 as the only PCR bank (TPM2_PCR_Allocate, TPM
// 2.0 Library Part 3, section 22.5; go-tpm lacks it).
func allocateSHA256(t transport.TPM) error {
	cmd := []byte{0x80, 0x02, 0, 0, 0, 0, 0, 0, 0x01, 0x2b} // TPM_ST_SESSIONS, size, TPM_CC_PCR_Allocate
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(tpm2.TPMRHPlatform))
	cmd = append(cmd, 0, 0, 0, 9)                                     // authorisation area
	cmd = append(cmd, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0)                // TPM_RS_PW, empty password
	cmd = append(cmd, 0, 0, 0, 4)                                     // TPML_PCR_SELECTION
	cmd = append(cmd, 0x00, 0x04, 3, 0, 0, 0)                         // SHA-1: none
	cmd = append(cmd, 0x00, 0x0b, 3, 0xff, 0xff, 0xff)                // SHA-256: all 24
	cmd = append(cmd, 0x00, 0x0c, 3, 0, 0, 0, 0x00, 0x0d, 3, 0, 0, 0) // SHA-384, SHA-512: none
	binary.BigEndian.PutUint32(cmd[2:], uint32(len(cmd)))
	r, err := t.Send(cmd)
	if err != nil {
		return fmt.Errorf("allocating PCR banks: %w", err)
	}
	// Response: header, parameter size (4), allocationSuccess (1), …
	if rc := binary.BigEndian.Uint32(r[6:]); rc != 0 {
		return fmt.Errorf("allocating PCR banks: %w", tpm2.TPMRC(rc))
	}
	if len(r) < headerSize+5 || r[headerSize+4] != 1 {
		return errors.New("allocating PCR banks: the TPM declined")
	}
	return nil
}

func endorse(t transport.TPM, ca *CA) (*x509.Certificate, error) {
	id, err := identify(t)
	if err != nil {
		return nil, err
	}
	ek, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(tpm2.RSAEKTemplate),
	}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("creating EK: %w", err)
	}
	pub, err := ek.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading EK: %w", err)
	}
	key, err := rsaPublic(pub)
	if err != nil {
		return nil, err
	}
	cert, err := ca.IssueEK(key, id)
	if err != nil {
		return nil, err
	}
	if _, err := (tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: ek.ObjectHandle, Name: ek.Name},
		PersistentHandle: HandleEK,
	}).Execute(t); err != nil {
		return nil, fmt.Errorf("persisting EK: %w", err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: ek.ObjectHandle}).Execute(t); err != nil {
		return nil, fmt.Errorf("flushing EK: %w", err)
	}
	return cert, writeNV(t, NVEKCertificate, cert.Raw)
}

func rsaPublic(pub *tpm2.TPMTPublic) (*rsa.PublicKey, error) {
	parms, err := pub.Parameters.RSADetail()
	if err != nil {
		return nil, fmt.Errorf("reading EK: %w", err)
	}
	unique, err := pub.Unique.RSA()
	if err != nil {
		return nil, fmt.Errorf("reading EK: %w", err)
	}
	key, err := tpm2.RSAPub(parms, unique)
	if err != nil {
		return nil, fmt.Errorf("reading EK: %w", err)
	}
	return key, nil
}

// writeNV defines an index as the manufacturer and writes it.
func writeNV(t transport.TPM, index tpm2.TPMHandle, data []byte) error {
	public := tpm2.New2B(tpm2.TPMSNVPublic{
		NVIndex: index,
		NameAlg: tpm2.TPMAlgSHA256,
		Attributes: tpm2.TPMANV{PPWrite: true, WriteDefine: true, PPRead: true, OwnerRead: true,
			AuthRead: true, NoDA: true, PlatformCreate: true},
		DataSize: uint16(len(data)),
	})
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: public}).Execute(t); err != nil {
		return fmt.Errorf("defining NV index %#x: %w", uint32(index), err)
	}
	// The name changes with the first write, so it is asked for each time.
	const chunk = 512
	for off := 0; off < len(data); off += chunk {
		rp, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
		if err != nil {
			return fmt.Errorf("reading NV index %#x: %w", uint32(index), err)
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform,
			NVIndex:    &tpm2.NamedHandle{Handle: index, Name: rp.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[off:min(off+chunk, len(data))]},
			Offset:     uint16(off),
		}).Execute(t); err != nil {
			return fmt.Errorf("writing NV index %#x: %w", uint32(index), err)
		}
	}
	return nil
}

// identify reads what the certificate says about the TPM.
func identify(t transport.TPM) (Identity, error) {
	prop := func(p tpm2.TPMPT) (uint32, error) {
		r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(p), PropertyCount: 1}.Execute(t)
		if err != nil {
			return 0, fmt.Errorf("reading TPM property %#x: %w", uint32(p), err)
		}
		props, err := r.CapabilityData.Data.TPMProperties()
		if err != nil {
			return 0, fmt.Errorf("reading TPM property %#x: %w", uint32(p), err)
		}
		if len(props.TPMProperty) != 1 || props.TPMProperty[0].Property != p {
			return 0, fmt.Errorf("reading TPM property %#x: absent", uint32(p))
		}
		return props.TPMProperty[0].Value, nil
	}
	var v [4]uint32
	for i, p := range []tpm2.TPMPT{tpm2.TPMPTManufacturer, tpm2.TPMPTFirmwareVersion1, tpm2.TPMPTLevel, tpm2.TPMPTRevision} {
		var err error
		if v[i], err = prop(p); err != nil {
			return Identity{}, err
		}
	}
	return Identity{Manufacturer: fmt.Sprintf("id:%08X", v[0]), Model: "swtpm",
		Version: fmt.Sprintf("id:%08X", v[1]), Level: int(v[2]), Revision: int(v[3])}, nil
}
