package swtpm

import (
	"crypto/x509"
	"encoding/asn1"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"cocoon/internal/imagetest"
)

func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

func TestManufacturedTPMHasAnEKCertificateOfItsCAInNV(t *testing.T) {
	tools, dir := imagetest.Tools(t), t.TempDir()
	ca, err := OpenCA(filepath.Join(dir, "ca"), "default", now)
	if err != nil {
		t.Fatal(err)
	}
	tpm := filepath.Join(dir, "tpm")
	cert, err := Manufacture(t.Context(), tools, tpm, ca)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("EK certificate does not verify under its CA: %v", err)
	}
	if len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(asn1.ObjectIdentifier{2, 23, 133, 8, 1}) {
		t.Errorf("EK certificate has key usages %v, want tcg-kp-EKCertificate", cert.UnknownExtKeyUsage)
	}
	err = powered(t.Context(), tools, tpm, func(tp transport.TPM) error {
		rp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(NVEKCertificate)}.Execute(tp)
		if err != nil {
			return err
		}
		pub, err := rp.NVPublic.Contents()
		if err != nil {
			return err
		}
		if int(pub.DataSize) != len(cert.Raw) {
			t.Errorf("NV index has %d bytes, certificate %d", pub.DataSize, len(cert.Raw))
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
			{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0)},
			{Hash: tpm2.TPMAlgSHA1, PCRSelect: tpm2.PCClientCompatible.PCRs(0)},
		}}}.Execute(tp)
		if err != nil {
			return err
		}
		if n := len(r.PCRValues.Digests); n != 1 {
			t.Errorf("%d banks answer for PCR 0, want SHA-256 alone", n)
		}
		ek, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(HandleEK)}.Execute(tp)
		if err != nil {
			return err
		}
		ekPub, err := ek.OutPublic.Contents()
		if err != nil {
			return err
		}
		key, err := rsaPublic(ekPub)
		if err != nil {
			return err
		}
		if !key.Equal(cert.PublicKey) {
			t.Error("the persistent EK is not the certified key")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}

	again, err := Manufacture(t.Context(), tools, tpm, ca)
	if err != nil || !again.Equal(cert) {
		t.Errorf("a second Manufacture made another TPM: %v", err)
	}
	other, err := OpenCA(filepath.Join(dir, "ca"), "other", now)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := Manufacture(t.Context(), tools, tpm, other)
	if err != nil || moved.CheckSignatureFrom(other.Root) != nil || moved.CheckSignatureFrom(ca.Root) == nil {
		t.Errorf("a TPM under another CA is not certified by it alone: %v", err)
	}
}

func TestOpenCAKeepsItsKeyAndRefusesAMixedPair(t *testing.T) {
	dir := t.TempDir()
	a, err := OpenCA(dir, "a", now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenCA(dir, "a", now)
	if err != nil || !a.Root.Equal(b.Root) {
		t.Fatalf("second OpenCA gave another authority: %v", err)
	}
	if _, err := OpenCA(dir, "b", now); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "b.key"), filepath.Join(dir, "a.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, "a", now); err == nil {
		t.Error("an authority with another's key was accepted")
	}
	if _, err := OpenCA(dir, "../x", now); err == nil {
		t.Error("a path was accepted as a name")
	}
}
