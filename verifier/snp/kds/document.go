package kds

import (
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// document is something that the service hands out.
type document interface {
	path() string // with the query, under the base URL; names the document
	limit() int   // largest body
	decode(body []byte) ([]byte, error)
	verify(body []byte, roots *vek.Roots) error
	current(body []byte, now time.Time) bool // of a verified body
	refreshes() bool                         // it changes while it is valid
	older(a, b []byte) bool                  // a is an older edition than b
	// proven says that a verified body was asked for because of what it signed, or
	// is one of a few.
	proven(body []byte, roots *vek.Roots) bool
}

// fixed is for documents that do not change.
type fixed struct{}

func (fixed) refreshes() bool                    { return false }
func (fixed) older(_, _ []byte) bool             { return false }
func (fixed) current(_ []byte, _ time.Time) bool { return true }

// few is for documents of which there are few.
type few struct{}

func (few) proven(_ []byte, _ *vek.Roots) bool { return true }

// vcek is the certificate of a chip at a TCB version.
type vcek struct {
	fixed
	line report.Product
	chip [64]byte
	tcb  report.TCB

	report *report.Report // that wants it
	raw    []byte         // its bytes; nil: it is taken for signed
}

func (d vcek) proven(body []byte, roots *vek.Roots) bool {
	if d.raw == nil {
		return true
	}
	c, err := vek.Verify(body, report.VCEK, roots)
	if err != nil || len(d.raw) < report.SignedSize {
		return false
	}
	digest := sha512.Sum384(d.raw[:report.SignedSize])
	r, s := d.report.Signature()
	return ecsig.Verify(c.Key, digest[:], r[:], s[:])
}

// path is /vcek/v1/{product}/{hwID}?…SPL=…; Turin has hwIDs of 8 bytes, and
// fmcSPL (AMD 57230, VCEK Certificate).
func (d vcek) path() string {
	id, fmc := hex.EncodeToString(d.chip[:]), ""
	if d.line == report.Turin {
		id, fmc = id[:16], fmt.Sprintf("fmcSPL=%02d&", d.tcb.FMC)
	}
	return fmt.Sprintf("/vcek/v1/%s/%s?%sblSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", d.line, id, fmc,
		d.tcb.Bootloader, d.tcb.TEE, d.tcb.SNP, d.tcb.Microcode)
}

func (d vcek) limit() int                         { return vek.MaxCert }
func (d vcek) decode(body []byte) ([]byte, error) { return vek.DER(body) }

func (d vcek) verify(body []byte, roots *vek.Roots) error {
	c, err := vek.Verify(body, report.VCEK, roots)
	if err != nil {
		return err
	}
	if c.Line != d.line || c.TCB != d.tcb || !c.ChipMatches(&d.chip) {
		return errors.New("certificate is of another chip or TCB version than was asked for")
	}
	return nil
}

// chain is ASK or ASVK, then ARK, in PEM.
type chain struct {
	fixed
	few
	line   report.Product
	signer report.Signer
}

// path is /{vcek|vlek}/v1/{product}/cert_chain.
func (d chain) path() string {
	if d.signer == report.VLEK {
		return "/vlek/v1/" + string(d.line) + "/cert_chain"
	}
	return "/vcek/v1/" + string(d.line) + "/cert_chain"
}

func (d chain) limit() int                         { return vek.MaxChain }
func (d chain) decode(body []byte) ([]byte, error) { return body, nil }

func (d chain) verify(body []byte, roots *vek.Roots) error {
	if len(body) == 0 {
		return errors.New("the chain is empty")
	}
	return roots.CheckChain(body, d.line)
}

// crl is the ARK's list of revoked certificates.
type crl struct {
	few
	line report.Product
}

// path is /vcek/v1/{product}/crl: one list for all that the ARK issued.
func (d crl) path() string    { return "/vcek/v1/" + string(d.line) + "/crl" }
func (d crl) limit() int      { return vek.MaxCRL }
func (d crl) refreshes() bool { return true }

func (d crl) decode(body []byte) ([]byte, error) {
	c, err := vek.ParseCRL(body)
	if err != nil {
		return nil, err
	}
	return c.DER, nil
}

func (d crl) verify(body []byte, roots *vek.Roots) error {
	c, err := vek.ParseCRL(body)
	if err != nil {
		return err
	}
	a := roots.Authority(d.line)
	if a == nil {
		return fmt.Errorf("no authority of %s is trusted", d.line)
	}
	return c.CheckIssuer(a)
}

func (d crl) current(body []byte, now time.Time) bool {
	c, err := vek.ParseCRL(body)
	return err == nil && !now.Before(c.ThisUpdate) && !now.After(c.NextUpdate)
}

func (d crl) older(a, b []byte) bool {
	x, errX := vek.ParseCRL(a)
	y, errY := vek.ParseCRL(b)
	return errX == nil && errY == nil && (x.ThisUpdate.Before(y.ThisUpdate) || x.Number.Cmp(y.Number) < 0)
}
