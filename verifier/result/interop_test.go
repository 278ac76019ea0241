package result_test

import (
	"encoding/base64"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"cocoon/verifier/jwks"
	"cocoon/verifier/result"
	"cocoon/verifier/tpmtest"
)

// joseClaims verifies a token with go-jose, a JWT library that this project
// does not sign with, under a key set as it is served.
func joseClaims(t *testing.T, token string, set *jwks.Set) (map[string]any, *jwt.Claims, error) {
	t.Helper()
	doc, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	var keys jose.JSONWebKeySet
	if err := json.Unmarshal(doc, &keys); err != nil {
		t.Fatal(err)
	}
	if len(keys.Keys) != len(set.Keys) || !keys.Keys[0].Valid() {
		t.Fatalf("go-jose reads %d keys of %d", len(keys.Keys), len(set.Keys))
	}
	tok, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, nil, err
	}
	var m map[string]any
	var registered jwt.Claims
	err = tok.Claims(&keys, &m, &registered)
	return m, &registered, err
}

func TestAnIndependentJWTLibraryAcceptsVerdicts(t *testing.T) {
	_, token, pub, _ := verdict(t)
	m, registered, err := joseClaims(t, token, jwks.Of(pub))
	if err != nil {
		t.Fatal(err)
	}
	if err := registered.Validate(jwt.Expected{Time: tpmtest.Now}); err != nil {
		t.Errorf("the registered claims: %v", err)
	}
	if err := registered.Validate(jwt.Expected{Time: tpmtest.Now.Add(result.MaxLifetime * 2)}); err == nil {
		t.Error("an expired verdict is good")
	}
	for _, fault := range earFaults(m) {
		t.Error(fault)
	}

	_, _, other, _ := verdict(t)
	if _, _, err := joseClaims(t, token, jwks.Of(other)); err == nil {
		t.Error("a verdict is good under another verifier's key")
	}
	last := "A"
	if strings.HasSuffix(token, "A") {
		last = "Q"
	}
	if _, _, err := joseClaims(t, token[:len(token)-1]+last, jwks.Of(pub)); err == nil {
		t.Error("a verdict with another signature is good")
	}
}

var submodName = regexp.MustCompile(`^(cpu0|gpu(0|[1-9][0-9]*)|image|config|model)$`)

// earFaults holds claims against draft-ietf-rats-ear-04, section 3 and its
// CDDL, and against the names of submodules that Trustee writes: cpu0, gpu0 and
// so on. (Trustee's tokens follow an earlier draft, with "ear.status" where
// this one has "ear_status".)
func earFaults(m map[string]any) []string {
	var out []string
	want := func(ok bool, what string) {
		if !ok {
			out = append(out, what)
		}
	}
	want(m["eat_profile"] == result.EARProfile, "eat_profile is not the draft's")
	iat, ok := m["iat"].(float64)
	want(ok && iat == float64(int64(iat)) && iat > 0, "iat is not a whole number of seconds")
	id, _ := m["ear_verifier_id"].(map[string]any)
	for _, k := range []string{"developer", "build"} {
		s, _ := id[k].(string)
		want(s != "", "ear_verifier_id has no "+k)
	}
	nonce, _ := m["eat_nonce"].(string)
	raw, err := base64.RawURLEncoding.DecodeString(nonce)
	want(err == nil && len(raw) >= 8 && len(raw) <= 64, "eat_nonce is not base64url of 8 to 64 bytes (RFC 9711, section 4.1)")
	submods, _ := m["submods"].(map[string]any)
	want(len(submods) > 0, "there are no submods")
	want(submods["cpu0"] != nil, "submods has no cpu0")
	for name, s := range submods {
		want(submodName.MatchString(name), "submods has "+name)
		sub, _ := s.(map[string]any)
		status, _ := sub["ear_status"].(string)
		want(slices.Contains([]string{"none", "affirming", "warning", "contraindicated"}, status), name+": ear_status is "+status)
		vector, _ := sub["ear_trustworthiness_vector"].(map[string]any)
		want(len(vector) > 0, name+": the vector is empty")
		for claim, v := range vector {
			n, ok := v.(float64)
			want(ok && n >= -128 && n <= 127 && n == float64(int8(n)), name+": "+claim+" is not an AR4SI value")
			want(slices.Contains([]string{"instance-identity", "configuration", "executables", "file-system", "hardware", "runtime-opaque", "storage-opaque", "sourced-data"}, claim),
				name+": "+claim+" is no AR4SI category")
		}
		policies, _ := sub["ear_appraisal_policy_ids"].([]any)
		want(len(policies) > 0, name+": no policy is named")
	}
	return out
}

// TestTheRulesOfTheDraftBite breaks claims in turn.
func TestTheRulesOfTheDraftBite(t *testing.T) {
	_, token, pub, _ := verdict(t)
	cpu := func(m map[string]any) map[string]any { return m["submods"].(map[string]any)["cpu0"].(map[string]any) }
	for name, change := range map[string]func(map[string]any){
		"another profile":   func(m map[string]any) { m["eat_profile"] = "x" },
		"iat as text":       func(m map[string]any) { m["iat"] = "1" },
		"no developer":      func(m map[string]any) { delete(m["ear_verifier_id"].(map[string]any), "developer") },
		"no submods":        func(m map[string]any) { delete(m, "submods") },
		"cpu0 renamed":      func(m map[string]any) { s := m["submods"].(map[string]any); s["cpu"] = s["cpu0"]; delete(s, "cpu0") },
		"an unknown status": func(m map[string]any) { cpu(m)["ear_status"] = "fine" },
		"a value too high":  func(m map[string]any) { cpu(m)["ear_trustworthiness_vector"].(map[string]any)["hardware"] = 200.0 },
		"another category":  func(m map[string]any) { cpu(m)["ear_trustworthiness_vector"].(map[string]any)["luck"] = 2.0 },
		"no policy":         func(m map[string]any) { cpu(m)["ear_appraisal_policy_ids"] = []any{} },
		"a short nonce":     func(m map[string]any) { m["eat_nonce"] = "AA" },
	} {
		m, _, err := joseClaims(t, token, jwks.Of(pub))
		if err != nil {
			t.Fatal(err)
		}
		change(m)
		if len(earFaults(m)) == 0 {
			t.Errorf("%s: no fault", name)
		}
	}
}
