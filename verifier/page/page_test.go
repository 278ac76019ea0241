package page_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"cocoon/verifier/appraise"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// service runs a verifier, whose page this is.
func service(t *testing.T, w *tpmtest.World) string {
	t.Helper()
	s, err := server.New(server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: testKey(1)}, Clock: func() time.Time { return tpmtest.Now }, Burst: 1000, PerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return h.URL
}

// token returns a verdict that was given at a time: the browser has the
// machine's clock.
func token(t *testing.T, w *tpmtest.World, key ed25519.PrivateKey, at time.Time) string {
	t.Helper()
	return signed(t, w, key, at).Token
}

// answer is what a verifier sends, as far as the page reads it.
func answer(t *testing.T, v *result.Signed) string {
	t.Helper()
	return text(t, struct {
		EAR    string `json:"ear"`
		Checks []byte `json:"checks"`
	}{v.Token, v.Checks})
}

func signed(t *testing.T, w *tpmtest.World, key ed25519.PrivateKey, at time.Time) *result.Signed {
	t.Helper()
	r := appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})
	r.Time, r.NotAfter = at, at.Add(time.Hour)
	v, err := result.Sign(r, key, "page")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestThePageAllowsNothingFromElsewhere(t *testing.T) {
	url := service(t, tpmtest.NewWorld(t))
	for path, typ := range map[string]string{"/": "text/html", "/page/page.css": "text/css", "/page/page.js": "text/javascript", "/page/read.js": "text/javascript"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		csp := resp.Header.Get("Content-Security-Policy")
		if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), typ) || !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: status %d, headers %v", path, resp.StatusCode, resp.Header)
		}
	}
	for _, path := range []string{"/page/", "/page/assets/index.html", "/index.html"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d", path, resp.StatusCode)
		}
	}
}

func TestThePageInABrowser(t *testing.T) {
	ctx := browser(t)
	w := tpmtest.NewWorld(t)
	url := service(t, w)
	now := time.Now().Truncate(time.Second)
	verdict := signed(t, w, testKey(1), now)
	good, whole := verdict.Token, answer(t, verdict)
	act(t, ctx, chromedp.EmulateViewport(1100, 900), chromedp.Navigate(url), chromedp.WaitVisible("#show"))

	head, all := look(t, ctx, good)
	wants(t, "a token alone", head, "Verified, with a warning")
	wants(t, "a token alone", all, "Signed by this verifier", "checks not at hand", "paste the verifier's whole answer")

	head, all = look(t, ctx, whole)
	wants(t, "a verdict of this verifier", head, "Verified, with a warning")
	wants(t, "a verdict of this verifier", all, "Signed by this verifier", "Development class", "test-image version 1", "CPU: hardware", "docs/measurements.md: Each register", result.KeyID(testKey(1).Public().(ed25519.PublicKey)))
	shoot(t, ctx, "verdict-light")

	act(t, ctx, chromedp.Click("#expand"))
	open, checks := get(t, ctx, chromedp.Evaluate[int](`document.querySelectorAll(".tree details[open]").length`)), get(t, ctx, chromedp.Evaluate[int](`document.querySelectorAll(".tree details.check").length`))
	if checks < 20 || open < checks {
		t.Errorf("%d checks, %d open", checks, open)
	}
	scheme(t, ctx, "dark")
	shoot(t, ctx, "verdict-dark-open")

	// A part opens by keyboard alone.
	act(t, ctx, chromedp.Click("#collapse"), chromedp.Focus(".tree > li:nth-child(2) > details > summary"), chromedp.KeyEvent(kb.Enter))
	if !get(t, ctx, chromedp.Evaluate[bool](`document.querySelector(".tree > li:nth-child(2) > details").open`)) {
		t.Error("enter does not open a part")
	}

	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(good, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	tampered := parts[0] + "." + base64.RawURLEncoding.EncodeToString(bytes.Replace(payload, []byte("test-image"), []byte("best-image"), 1)) + "." + parts[2]
	other := token(t, w, testKey(2), now)
	for _, c := range []struct {
		name, in, head string
		want           []string
	}{
		{"a tampered verdict", tampered, "Not a good verdict", []string{"the token was changed after it was signed"}},
		{"other checks", answer(t, &result.Signed{Token: good, Checks: bytes.Replace(verdict.Checks, []byte("pass"), []byte("skip"), 1)}), "Not a good verdict", []string{"the checks are not those of this verdict"}},
		{"no checks", answer(t, &result.Signed{Token: good, Checks: []byte("{}")}), "Not a good verdict", []string{"the checks are not those of this verdict"}},
		{"another verifier's verdict", other, "Not a good verdict", []string{"none of the keys signed it"}},
		{"an expired verdict", token(t, w, testKey(1), now.Add(-2*time.Hour)), "Not a good verdict", []string{"the verdict has expired"}},
		{"nothing", "", "Cannot be read", []string{"there is nothing to show"}},
		{"other JSON", `{"a":1}`, "Cannot be read", []string{"neither a result of an appraisal nor evidence"}},
		{"a result", text(t, appraise.Appraise(w.Evidence(t), &appraise.Options{Policy: w.Policy, Manifests: w.Manifests(t), Now: tpmtest.Now})), "Accepted", []string{"A result is not signed"}},
		{"evidence, which this verifier appraises", text(t, w.Evidence(t)), "Refused: 1 check failed", []string{"nonce.challenge", "ask"}},
	} {
		head, all := look(t, ctx, c.in)
		wants(t, c.name, head, c.head)
		wants(t, c.name, all, c.want...)
	}

	// Keys of the reader's own decide, whatever this verifier says.
	act(t, ctx, chromedp.Click("#pin summary"), chromedp.SetValue("#keys", hex.EncodeToString(testKey(2).Public().(ed25519.PublicKey))))
	if head, all := look(t, ctx, other); head != "Verified, with a warning" || !strings.Contains(all, "Signed by a key that you gave") {
		t.Errorf("under a pinned key: %s\n%s", head, all)
	}
	if head, _ := look(t, ctx, good); head != "Not a good verdict" {
		t.Errorf("this verifier's key, which is not pinned: %s", head)
	}

	// What differs is named, and text from outside stays text.
	bad := tpmtest.NewWorld(t)
	manifests, policy := bad.Manifests(t), bad.Policy
	bad.Boot.Components.InitrdSHA256[0] ^= 1
	r := appraise.Appraise(bad.Evidence(t), &appraise.Options{Policy: policy, Manifests: manifests, Now: tpmtest.Now})
	r.Submods[result.SubImage].Checks[0].Actual = `<img src=x onerror="document.title='owned'">`
	_, all = look(t, ctx, text(t, r))
	wants(t, "another initrd", all, "Refused: 2 checks failed", "image.initrd", "boot the published image", "docs/measurements.md: Each register")
	if name := get(t, ctx, chromedp.Title()); name != "Cocoon verifier" {
		t.Errorf("the title is %q", name)
	}
	shoot(t, ctx, "refused-dark")
	scheme(t, ctx, "light")
	act(t, ctx, chromedp.EmulateViewport(400, 800))
	shoot(t, ctx, "refused-narrow")
}
