package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/verifier/snp/kds"
	"cocoon/verifier/snp/kdstest"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// snpFiles are the files that the scripts and the page about SEV-SNP use, and
// a KDS that knows their chips. They are made once.
type snpFiles struct {
	pki    *snptest.PKI
	server *kdstest.Server
	files  map[string][]byte
}

var snpWorld = sync.OnceValues(func() (*snpFiles, error) {
	pki, err := snptest.New("scripts")
	if err != nil {
		return nil, err
	}
	w := &snpFiles{pki: pki, server: kdstest.New(pki), files: map[string][]byte{"roots.pem": pki.RootsPEM()}}
	for name, r := range snpReports() {
		raw, cert, err := pki.Make(&r)
		if err != nil {
			return nil, err
		}
		w.files[name+".bin"], w.files[name+".der"] = raw, cert
		if r.Signer == report.VCEK {
			w.server.Add(&r)
		}
		if r.IDKey != "" {
			if w.files[name+".id-block"], w.files[name+".id-auth"], err = pki.IDBlock(&r); err != nil {
				return nil, err
			}
		}
	}
	good := w.files["report.bin"]
	w.files["report.hex"] = []byte(hex.EncodeToString(good) + "\n")
	w.files["report.b64"] = []byte(base64.StdEncoding.EncodeToString(good) + "\n")
	w.files["extended.bin"] = pki.Table(good, report.VCEK, report.Genoa, w.files["report.der"])
	w.files["report.pem"] = snptest.PEM(w.files["report.der"])
	w.files["chain.pem"] = pki.Chain(report.Genoa, report.VCEK)
	w.files["other-chain.pem"] = pki.Chain(report.Milan, report.VCEK)
	tampered := append([]byte(nil), good...)
	tampered[0x90] ^= 1
	w.files["tampered.bin"] = tampered
	for name, revoked := range map[string][]int64{"crl.der": nil, "revoking.der": {snptest.SerialASK}} {
		l := snptest.DefaultCRL(report.Genoa)
		l.Revoked = revoked
		if w.files[name], err = pki.CRL(&l); err != nil {
			return nil, err
		}
	}
	bundle := kds.Bundle{Certificate: w.files["report.der"], Chain: w.files["chain.pem"], CRL: w.files["crl.der"]}
	w.files["bundle.json"], err = bundle.Marshal()
	return w, err
})

// snpReports are the reports of the scripts, by name.
func snpReports() map[string]snptest.Report {
	good := snptest.Default(5, report.Genoa, report.VCEK)
	good.IDKey, good.AuthorKey = "id", "author"
	debug := good
	debug.Policy |= 1 << 19
	debug.ChipID[1]++
	return map[string]snptest.Report{
		"report": good, "debug": debug, "turin": snptest.Default(3, report.Turin, report.VCEK), "siena": snptest.Default(5, report.Siena, report.VCEK),
		"v2": snptest.Default(2, report.Milan, report.VCEK), "vlek": snptest.Default(4, report.Milan, report.VLEK),
	}
}

func (w *snpFiles) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, b := range w.files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// setupSNP puts reports and certificates of a test PKI into the script's
// directory snp, and starts a KDS for them: $KDS is its address, $SNPAT the
// time at which everything is valid.
func setupSNP(env *testscript.Env) error {
	w, err := snpWorld()
	if err != nil {
		return fmt.Errorf("making reports: %w", err)
	}
	if err := w.write(filepath.Join(env.WorkDir, "snp")); err != nil {
		return err
	}
	ts := httptest.NewServer(w.server)
	env.Defer(ts.Close)
	env.Setenv("KDS", ts.URL)
	env.Setenv("SNPAT", snptest.Now.Format("2006-01-02T15:04:05Z07:00"))
	return nil
}
