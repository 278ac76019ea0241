package maa

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/dcap"
	"cocoon/verifier/result"
)

// Profile is the token's eat_profile: ours, for it does not say all that
// Azure's does.
const Profile = "urn:cocoon:eat:tdxvm:1"

// AttestationType is what x-ms-attestation-type says.
const AttestationType = "tdxvm"

// ErrNotGood is returned for platforms that no token can be given on.
var ErrNotGood = errors.New("the platform was refused")

// registers are the claims of registers, by our names of them (Azure
// Attestation EAT profile for TDX, "TDX claims").
var registers = map[string]string{
	"mrsignerseam": "tdx_mrsignerseam", "mrseam": "tdx_mrseam", "mrtd": "tdx_mrtd", "rtmr0": "tdx_rtmr0", "rtmr1": "tdx_rtmr1", "rtmr2": "tdx_rtmr2", "rtmr3": "tdx_rtmr3",
	"mrconfigid": "tdx_mrconfigid", "mrowner": "tdx_mrowner", "mrownerconfig": "tdx_mrownerconfig", "report_data": "tdx_report_data",
	"seam_attributes": "tdx_seam_attributes", "tee_tcb_svn": "tdx_tee_tcb_svn", "xfam": "tdx_xfam", "td_attributes": "tdx_td_attributes",
}

// attributes are the claims of TDATTRIBUTES' bits (TDX module ABI, ATTRIBUTES).
var attributes = map[string]int{
	"tdx_td_attributes_debug": 0, "tdx_td_attributes_septve_disable": 28, "tdx_td_attributes_protection_keys": 30,
	"tdx_td_attributes_key_locker": 31, "tdx_td_attributes_perfmon": 63,
}

// Token returns the signed JWT on a platform that was found good. It has no cnf
// and its one submodule is never affirming, so nothing that reads verdicts takes
// it for one: its header's typ is another, too.
func (r *Request) Token(p *appraise.Platform, evidence digest.SHA256, key crypto.Signer, build string) (string, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("signing token: not an Ed25519 key")
	}
	res, cpu := p.Result, p.Result.Submods[result.SubCPU]
	facts, ok := p.Facts.(*dcap.Result)
	if !p.Good || !ok || cpu == nil || cpu.Status != result.Warning || facts.Debug {
		return "", fmt.Errorf("signing token: %w", ErrNotGood)
	}
	kid := result.KeyID(public)
	sub := &result.EARSubmod{Status: cpu.Status, Vector: cpu.Vector, PolicyIDs: []string{"urn:sha256:" + res.PolicySHA256.String()}, Claims: &result.EARChecks{Checks: cpu.Checks}}
	c := jwt.MapClaims{
		"iss": "urn:cocoon:verifier:" + kid, "iat": res.Time.Unix(), "nbf": res.Time.Unix(), "exp": res.NotAfter.Unix(), "jti": evidence.String(),
		"eat_profile": Profile, "eat_nonce": base64.RawURLEncoding.EncodeToString(r.challenge[:]), "dbgstat": "disabled",
		"ear_verifier_id":       result.EARVerifier{Developer: "cocoon", Build: build},
		"submods":               map[string]*result.EARSubmod{result.SubCPU: sub},
		"x-ms-ver":              "1.0",
		"x-ms-attestation-type": AttestationType,
		"x-ms-policy-hash":      base64.RawURLEncoding.EncodeToString(res.PolicySHA256[:]),
		"cocoon_trust_class":    res.TrustClass, "cocoon_development": res.Development,
		"cocoon_policy_sha256": res.PolicySHA256, "cocoon_evidence_sha256": evidence,
		"cocoon_tcb_status": facts.TCB.Status, "cocoon_tcb_evaluation": facts.TCB.Evaluation,
	}
	if len(res.TestRoots) > 0 {
		c["cocoon_test_roots"] = res.TestRoots
	}
	if len(facts.TCB.Advisories) > 0 {
		c["cocoon_tcb_advisories"] = facts.TCB.Advisories
	}
	for name, claim := range registers {
		c[claim] = res.Measurements[name]
	}
	bits, err := hex.DecodeString(res.Measurements["td_attributes"])
	if err != nil || len(bits) != 8 {
		return "", fmt.Errorf("signing token: TD attributes %.32q", res.Measurements["td_attributes"])
	}
	for claim, bit := range attributes {
		c[claim] = bits[bit/8]>>(bit%8)&1 == 1
	}
	if r.Nonce != "" {
		c["nonce"] = r.Nonce
	}
	for claim, d := range map[string]*Data{"x-ms-runtime": r.RuntimeData, "x-ms-inittime": r.InitTimeData} {
		if d != nil && d.Type == JSON {
			c[claim] = json.RawMessage(d.bytes)
		}
	}
	if life := res.NotAfter.Sub(res.Time); life <= 0 || life > result.MaxLifetime {
		return "", fmt.Errorf("signing token: life of %v", life)
	}
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["kid"] = kid
	out, err := t.SignedString(key)
	if err != nil {
		return "", fmt.Errorf("signing token: %w", err)
	}
	if len(out) > result.MaxEAR {
		return "", fmt.Errorf("signing token: %d bytes, limit %d", len(out), result.MaxEAR)
	}
	return out, nil
}
