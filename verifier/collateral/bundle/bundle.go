// Package bundle keeps collateral in files, for machines without a network:
// one JSON file, in the shape of collateral.ParseJSON, or a directory with a
// file for each of the nine parts. Nothing is believed of either: what is
// read still has to be opened by collateral.Verify.
package bundle

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
)

// file is one part in a directory.
type file struct {
	name  string // in the directory
	key   string // in the JSON shape
	hex   bool   // JSON carries the file's bytes as hex
	limit int
	data  func(*collateral.Raw) []byte
}

// files is the layout of a directory: PEM chains, DER lists, signed documents
// as they are, signatures as hex text.
var files = []file{
	{"pck_crl_issuer_chain.pem", "pck_crl_issuer_chain", false, collateral.MaxChain, func(r *collateral.Raw) []byte { return r.PCKCRLIssuerChain }},
	{"root_ca_crl.der", "root_ca_crl", true, collateral.MaxCRL, func(r *collateral.Raw) []byte { return r.RootCACRL }},
	{"pck_crl.der", "pck_crl", true, collateral.MaxCRL, func(r *collateral.Raw) []byte { return r.PCKCRL }},
	{"tcb_info_issuer_chain.pem", "tcb_info_issuer_chain", false, collateral.MaxChain, func(r *collateral.Raw) []byte { return r.TCBInfoIssuerChain }},
	{"tcb_info.json", "tcb_info", false, collateral.MaxTCBInfo, func(r *collateral.Raw) []byte { return r.TCBInfo }},
	{"tcb_info_signature.hex", "tcb_info_signature", false, maxSignature, func(r *collateral.Raw) []byte { return hexLine(r.TCBInfoSignature) }},
	{"qe_identity_issuer_chain.pem", "qe_identity_issuer_chain", false, collateral.MaxChain, func(r *collateral.Raw) []byte { return r.QEIdentityIssuerChain }},
	{"qe_identity.json", "qe_identity", false, collateral.MaxIdentity, func(r *collateral.Raw) []byte { return r.QEIdentity }},
	{"qe_identity_signature.hex", "qe_identity_signature", false, maxSignature, func(r *collateral.Raw) []byte { return hexLine(r.QEIdentitySignature) }},
}

// maxSignature is 64 bytes in hex and a line end.
const maxSignature = 130

func hexLine(b []byte) []byte { return []byte(hex.EncodeToString(b) + "\n") }

// Read reads a bundle: a directory, or a JSON file. Errors are faults:
// dcap.collateral.unreadable (exit 1) for a path that is not there,
// dcap.collateral.parse (exit 5) for everything else.
func Read(path string) (*collateral.Raw, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "dcap.collateral.unreadable",
			"give a file or a directory that cocoon collateral export wrote", "reading collateral: %w", err)
	}
	if info.IsDir() {
		return readDir(path)
	}
	b, err := readFile(path, collateral.MaxJSON)
	if err != nil {
		return nil, err
	}
	return collateral.ParseJSON(b)
}

// readDir puts the files of a directory together in the JSON shape, so that
// one parser judges both forms.
func readDir(dir string) (*collateral.Raw, error) {
	doc := map[string]string{}
	var errs []error
	for _, f := range files {
		b, err := readFile(filepath.Join(dir, f.name), f.limit)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		switch {
		case f.hex:
			doc[f.key] = hex.EncodeToString(b)
		case f.limit == maxSignature:
			doc[f.key] = strings.TrimSpace(string(b))
		default:
			doc[f.key] = string(b)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("reading collateral in %s: %w", dir, err)
	}
	return collateral.ParseJSON(b)
}

func readFile(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if len(b) > limit {
		return nil, fault.New(fault.ExitParse, "dcap.collateral.parse", "give the file that cocoon collateral export wrote",
			"reading collateral: %s has more than %d bytes", path, limit)
	}
	return b, nil
}

func unreadable(path string, err error) *fault.Fault {
	// The path is in the message already.
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err
	}
	return fault.New(fault.ExitParse, "dcap.collateral.parse",
		"give a file or a directory that cocoon collateral export wrote", "reading collateral: %s: %w", path, err)
}

// WriteFile writes a JSON bundle. An existing file is replaced at once, or
// not at all.
func WriteFile(path string, raw *collateral.Raw) error {
	b, err := json.Marshal(raw)
	if err != nil {
		return fmt.Errorf("writing collateral: %w", err)
	}
	return write(path, append(b, '\n'))
}

// WriteDir writes a directory bundle, which is made if it is absent.
func WriteDir(dir string, raw *collateral.Raw) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing collateral: %w", err)
	}
	for _, f := range files {
		if err := write(filepath.Join(dir, f.name), f.data(raw)); err != nil {
			return err
		}
	}
	return nil
}

func write(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("writing collateral: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing collateral: %w", err)
	}
	return nil
}
