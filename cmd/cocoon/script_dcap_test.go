package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/collateral/bundle"
	"cocoon/verifier/collateral/pcstest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdxtest"
)

// setupDCAP puts quotes and collateral of a test PKI into the script's
// directory dcap, and starts a PCS for them: $PCS is its address, $AT and
// $ATUNIX the time at which everything is valid, $NONCE that of the claims.
func setupDCAP(env *testscript.Env) error {
	pki, err := tdxtest.New("scripts")
	if err != nil {
		return err
	}
	server, err := pcstest.NewDefault(pki)
	if err != nil {
		return err
	}
	dir := filepath.Join(env.WorkDir, "dcap")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	write := func(name string, b []byte) error { return os.WriteFile(filepath.Join(dir, name), b, 0o644) }
	if err := write("roots.pem", pki.RootPEM()); err != nil {
		return err
	}
	for _, s := range tcb.Statuses() {
		for tee, c := range map[string]tdxtest.Case{"tdx": tdxtest.StatusTDX(s), "sgx": tdxtest.StatusSGX(s)} {
			if err := writeCase(dir, tee+"-"+s.Code(), pki, &c); err != nil {
				return err
			}
		}
	}
	if err := writeVariants(dir, pki); err != nil {
		return err
	}
	early := nextEvaluation()
	if err := server.AddMade(pki, "tdx", "early", &early); err != nil {
		return err
	}
	raw, err := pki.Collateral(&early)
	if err != nil {
		return err
	}
	if err := bundle.WriteFile(filepath.Join(dir, "early.json"), raw); err != nil {
		return err
	}
	ts := httptest.NewServer(server)
	env.Defer(ts.Close)
	env.Setenv("PCS", ts.URL)
	env.Setenv("NONCE", digest.Sum256([]byte("nonce")).String())
	env.Setenv("AT", tdxtest.Now.Format(time.RFC3339))
	env.Setenv("ATUNIX", fmt.Sprint(tdxtest.Now.Unix()))
	return nil
}

// writeCase writes NAME.quote and NAME.json.
func writeCase(dir, name string, pki *tdxtest.PKI, c *tdxtest.Case) error {
	q, raw, err := pki.Make(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, name+".quote"), q, 0o644); err != nil {
		return err
	}
	return bundle.WriteFile(filepath.Join(dir, name+".json"), raw)
}

// nextEvaluation is an early evaluation under which the default platform is
// out of date.
func nextEvaluation() tdxtest.Collateral {
	c := tdxtest.DefaultCollateral(quote.TEETDX)
	old := c.Info.Levels[0]
	better := old
	better.PCESVN++
	old.Status, old.Advisories = tcb.OutOfDate, []string{"INTEL-SA-00099"}
	c.Info.Levels = append([]tcb.Level{better, old}, c.Info.Levels[1:]...)
	c.Info.Evaluation, c.QE.Evaluation = 21, 21
	return c
}

// writeVariants writes what the scripts need beside one case for each status:
// a debug TD, a quote over claims, a forged quote, text forms, zero padding.
func writeVariants(dir string, pki *tdxtest.PKI) error {
	debug := tdxtest.StatusTDX(tcb.UpToDate)
	debug.Quote.TD.Attributes[0] |= 1
	if err := writeCase(dir, "tdx-debug", pki, &debug); err != nil {
		return err
	}
	claims := evidence.Claims{
		TLSSPKISHA256: digest.Sum256([]byte("tls")), ReceiptKey: digest.Sum256([]byte("receipt")), ConfigSHA256: digest.Sum256([]byte("config")),
		Model: evidence.Model{Name: "test", VerityRoot: digest.Sum256([]byte("model"))}, GPUEvidenceSHA256: digest.Sum256([]byte("[]")),
		Nonce: digest.Sum256([]byte("nonce")),
	}
	rd, err := claims.ReportData()
	if err != nil {
		return err
	}
	for _, tee := range []string{"tdx", "sgx"} {
		c := tdxtest.StatusTDX(tcb.UpToDate)
		if tee == "sgx" {
			c = tdxtest.StatusSGX(tcb.UpToDate)
		}
		c.Quote.TD.ReportData, c.Quote.Enclave.ReportData = rd, rd
		if err := writeCase(dir, tee+"-claims", pki, &c); err != nil {
			return err
		}
	}
	canonical, err := jcs.Marshal(claims)
	if err != nil {
		return err
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, canonical, "", "  "); err != nil {
		return err
	}
	good, err := os.ReadFile(filepath.Join(dir, "tdx-up_to_date.quote"))
	if err != nil {
		return err
	}
	forged := append([]byte(nil), good...)
	forged[48+136] ^= 1 // MRTD
	for name, b := range map[string][]byte{
		"claims.json":   canonical,
		"claims.pretty": pretty.Bytes(),
		"forged.quote":  forged,
		"quote.hex":     []byte(strings.ToUpper(hex.EncodeToString(good)) + "\n"),
		"padded.quote":  append(append([]byte(nil), good...), make([]byte, 100)...),
		"short.quote":   good[:1000],
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
