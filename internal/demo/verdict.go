package demo

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/verifier/result"
)

// verdictDoc is the verdict as a run keeps it: the token with its checks, of
// which the token has the hash alone. "cocoon verdict show" and "verify" read it.
type verdictDoc struct {
	EAR    string `json:"ear"`
	Checks []byte `json:"checks"`
	// What came with it from the verifier: the verdict for contracts, and the
	// proof that its log has both.
	Cell      string `json:"cell,omitempty"`
	Inclusion string `json:"inclusion,omitempty"`
}

// readResult reads what a verifier's archive has of one appraisal.
func readResult(path string) (*result.Result, *verdictDoc, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("reading result: %w", err)
	}
	var doc struct {
		Result *result.Result `json:"result"`
		verdictDoc
	}
	if err := json.Unmarshal(b, &doc); err != nil || doc.Result == nil {
		return nil, nil, fmt.Errorf("reading result %s: malformed: %w", path, err)
	}
	return doc.Result, &doc.verdictDoc, nil
}

// marshal returns the file that a run keeps.
func (v *verdictDoc) marshal() ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("keeping verdict: %w", err)
	}
	return append(b, '\n'), nil
}

func (k *kept) verdictDoc() (*verdictDoc, error) {
	b, err := k.read(fileVerdict)
	if err != nil {
		return nil, err
	}
	var v verdictDoc
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fault.New(fault.ExitParse, "demo.verdict", "run make demo again", "reading %s: %w", fileVerdict, err)
	}
	return &v, nil
}

// log verifies that the verdict is in the log of the run's verifier.
func (k *kept) log() (string, error) {
	v, err := k.verdictDoc()
	if err != nil {
		return "", err
	}
	_, ear, err := k.verdictTime()
	if err != nil {
		return "", err
	}
	b, err := k.read(fileLogKey)
	if err != nil {
		return "", err
	}
	key, err := log.ParseKey(strings.TrimSpace(string(b)))
	if err != nil {
		return "", fault.New(fault.ExitParse, "demo.log", "run make demo again", "reading %s: %w", fileLogKey, err)
	}
	return inLog(v, ear, key)
}

// verdictTime returns when the verdict was made, and the verdict, verified as of
// then under the key of the run's verifier, with its checks.
func (k *kept) verdictTime() (time.Time, *result.EAR, error) {
	v, err := k.verdictDoc()
	if err != nil {
		return time.Time{}, nil, err
	}
	return k.signed(v)
}

// signed verifies a verdict of the run's verifier as of when it was made.
func (k *kept) signed(v *verdictDoc) (time.Time, *result.EAR, error) {
	hexKey, err := k.read(fileVKey)
	if err != nil {
		return time.Time{}, nil, err
	}
	key, err := digest.Parse256(strings.TrimSpace(string(hexKey)))
	if err != nil {
		return time.Time{}, nil, err
	}
	k.key = key[:]
	ear, err := result.ParseEAR(v.EAR)
	if err != nil {
		return time.Time{}, nil, err
	}
	at := time.Unix(ear.IssuedAt, 0).UTC()
	ear, err = result.VerifyEAR(v.EAR, result.EAROptions{Keys: []ed25519.PublicKey{k.key}, Now: at, AllowDevelopment: true})
	if err == nil {
		err = ear.OpenChecks(v.Checks)
	}
	return at, ear, err
}
