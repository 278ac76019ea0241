package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"cocoon/internal/jcs"
	"cocoon/internal/vectors"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/evidence"
	"cocoon/verifier/quote"
	"cocoon/verifier/tdxtest"
	"cocoon/verifier/tpm"
	"cocoon/verifier/tpmtest"
)

// realBootLog is the log of a real direct boot (its README says which).
const realBootLog = "../../measurements/eventlog/testdata/direct-boot.eventlog.bin"

// setupTPM gives the scripts about TPM quotes and event logs what they need:
// see writeTPM and writeLogs. $AT is the time at which it is good.
func setupTPM(env *testscript.Env) error {
	name := filepath.Base(env.WorkDir)
	switch {
	case strings.Contains(name, "verify_tpm"):
		env.Setenv("AT", tpmtest.Now.Format(time.RFC3339))
		env.Setenv("NONCE", digest.Sum256([]byte("nonce")).String())
		return writeTPM(env.T(), env.WorkDir)
	case strings.Contains(name, "eventlog"):
		return writeLogs(env.T(), env.WorkDir)
	case strings.Contains(name, "verify_azure"):
		return copyVectors(env)
	}
	return nil
}

// condition knows whether the real vectors are here.
func condition(cond string) (bool, error) {
	if cond != "vectors" {
		return false, fmt.Errorf("unknown condition %q", cond)
	}
	return vectors.Find() != "" || os.Getenv("COCOON_VECTORS_REQUIRED") != "", nil
}

// copyVectors copies the real Azure evidence.
func copyVectors(env *testscript.Env) error {
	dir := vectors.Find()
	if dir == "" {
		return nil
	}
	for from, to := range map[string]string{
		"azure-vtpm/snp-trustee-evidence-genoa.json": "genoa.json", "azure-vtpm/snp-trustee-evidence-v2.json": "snp.json",
		"azure-vtpm/tdx-trustee-evidence-v1.json":                  "tdx.json",
		"tdx/tdx-v4-trustee-00806f050000-a187.e21.collateral.json": "collateral.json",
	} {
		b, err := os.ReadFile(filepath.Join(dir, from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(env.WorkDir, to), b, 0o644); err != nil {
			return err
		}
		if to == "snp.json" {
			forged := bytes.Replace(b, []byte("982f5c6e"), []byte("982f5c6f"), 1)
			if err := os.WriteFile(filepath.Join(env.WorkDir, "forged.json"), forged, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeTPM writes a quote over the registers of a real boot by an enrolled
// key, in every form that the command reads, and documents beside it.
func writeTPM(t tpmtest.T, dir string) error {
	w := tpmtest.NewWorld(t)
	ak := tpmtest.NewAK(t, tpmtest.RSAPSS256)
	raw, err := os.ReadFile(realBootLog)
	if err != nil {
		return err
	}
	l, err := eventlog.ParseTPM(raw)
	if err != nil {
		return err
	}
	banks := tpm.Banks{}
	var text strings.Builder
	for _, a := range []eventlog.Algorithm{eventlog.SHA256, eventlog.SHA384} {
		regs, err := l.Replay(a)
		if err != nil {
			return err
		}
		size := map[eventlog.Algorithm]int{eventlog.SHA256: 32, eventlog.SHA384: 48}[a]
		banks[a] = map[int][]byte{}
		fmt.Fprintf(&text, "  %s:\n", tpm.BankName(a))
		for n := range 16 {
			v := make([]byte, size)
			if r, ok := regs[n]; ok {
				v = r
			}
			banks[a][n] = v
			fmt.Fprintf(&text, "    %-2d: 0x%s\n", n, strings.ToUpper(hex.EncodeToString(v)))
		}
	}
	claims := evidence.Claims{
		TLSSPKISHA256: digest.Sum256([]byte("tls")), ReceiptKey: digest.Sum256([]byte("receipt")), ConfigSHA256: digest.Sum256([]byte("config")),
		Model: evidence.Model{Name: "test", VerityRoot: digest.Sum256([]byte("model"))}, GPUEvidenceSHA256: digest.Sum256([]byte("[]")),
		Nonce: digest.Sum256([]byte("nonce")),
	}
	q, err := claims.QualifyingData()
	if err != nil {
		return err
	}
	canonical, err := jcs.Marshal(claims)
	if err != nil {
		return err
	}
	attest, sig := ak.Quote(t, q[:], tpmtest.Select([]uint{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, eventlog.SHA256, eventlog.SHA384), banks)
	other, otherSig := ak.Quote(t, []byte{0, 0xff}, tpmtest.Select([]uint{0, 4, 9}, eventlog.SHA256), banks)
	der, err := w.AKCA.Issue(ak.Public, ak.Key.Public(), w.EKCA.Cert, tpmtest.Now.Add(-time.Hour), tpmtest.Now.Add(24*time.Hour))
	if err != nil {
		return err
	}
	cert := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}) }
	policyDoc, err := json.Marshal(w.Policy)
	if err != nil {
		return err
	}
	production := *w.Policy
	production.Environment, production.TrustClasses = "production", []string{"tdx"}
	productionDoc, err := json.Marshal(&production)
	if err != nil {
		return err
	}
	changed := strings.Replace(text.String(), "0x", "0xFF", 1)
	changed = strings.Replace(changed, strings.ToUpper(hex.EncodeToString(banks[eventlog.SHA256][0])), strings.ToUpper(hex.EncodeToString(banks[eventlog.SHA256][0][1:])), 1)
	values, err := json.Marshal(map[string]map[string]string{"sha256": hexValues(banks[eventlog.SHA256]), "sha384": hexValues(banks[eventlog.SHA384])})
	if err != nil {
		return err
	}
	for name, b := range map[string][]byte{
		"boot.log": raw, "quote.msg": attest, "quote.sig": sig, "quote.hex": []byte(hex.EncodeToString(attest) + "\n"),
		"other.msg": other, "other.sig": otherSig, "ak.pub": ak.Public, "ak.tpm2b": append([]byte{byte(len(ak.Public) >> 8), byte(len(ak.Public))}, ak.Public...),
		"ak.pem": append(cert(der), cert(w.AKCA.Cert.Raw)...), "ak-roots.pem": cert(w.AKCA.Cert.Raw), "ek-roots.pem": cert(w.EKCA.Cert.Raw),
		"other-roots.pem": cert(tpmtest.NewEKCA(t, "another maker").Cert.Raw), "stranger.pub": tpmtest.NewAK(t, tpmtest.RSAPSS256).Public,
		"claims.json": canonical, "policy.json": policyDoc, "production.json": productionDoc,
		"pcrs.yaml": []byte(text.String()), "changed.yaml": []byte(changed), "pcrs.json": values, "forged.log": append(bytes.Clone(raw), lastEvent(raw, l)...),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func hexValues(m map[int][]byte) map[string]string {
	out := map[string]string{}
	for n, v := range m {
		out[fmt.Sprint(n)] = hex.EncodeToString(v)
	}
	return out
}

// lastEvent returns the bytes of a log's last event.
func lastEvent(raw []byte, l *eventlog.Log) []byte {
	e := l.Events[len(l.Events)-1]
	n := 16 + len(e.Data)
	for _, d := range e.Digests {
		n += 2 + len(d.Value)
	}
	return raw[len(raw)-n:]
}

// writeLogs writes logs of every kind: a TPM's of a real boot with a quote, a
// made CCEL with a quote, a forged one with its own quote, and a JSON log.
func writeLogs(t tpmtest.T, dir string) error {
	if err := writeTPM(t, dir); err != nil {
		return err
	}
	pki, err := tdxtest.New("logs")
	if err != nil {
		return err
	}
	write := func(name string, b []byte) error { return os.WriteFile(filepath.Join(dir, name), b, 0o644) }
	good := tdxtest.DirectBoot()
	changed := tdxtest.DirectBoot()
	changed[6].Of = "another initrd"
	forged := append(tdxtest.DirectBoot()[:5:5], append([]tdxtest.CCEvent{good[4]}, good[5:]...)...)
	for name, events := range map[string][]tdxtest.CCEvent{"good": good, "changed": changed, "forged": forged} {
		ccel, regs := tdxtest.CCEL(events)
		q := tdxtest.DefaultTDX(4, quote.BodyTD10)
		q.TD.RTMR = regs
		b, err := pki.Quote(&q)
		if err != nil {
			return err
		}
		if err := write(name+".ccel", ccel); err != nil {
			return err
		}
		if err := write(name+".quote", b); err != nil {
			return err
		}
	}
	sgx := tdxtest.DefaultSGX(3)
	b, err := pki.Quote(&sgx)
	if err != nil {
		return err
	}
	if err := write("enclave.quote", b); err != nil {
		return err
	}
	return write("agent.json", []byte(`[{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"01"}]`))
}
