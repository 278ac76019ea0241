package page_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"

	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/server"
	"cocoon/verifier/snp"
	"cocoon/verifier/testfleet"
)

// fleetService runs a verifier that accepts the machines of a fleet.
func fleetService(t *testing.T, f *testfleet.Fleet) string {
	t.Helper()
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	p := f.Policy(policy.ClassTest, policy.ClassTDX, policy.ClassSNP)
	ms, err := appraise.OpenManifests(p, []manifest.Published{{Envelope: env}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Options{Trust: server.Trust{Policy: p, Manifests: ms, Signer: testKey(1),
		CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots()}, SNP: snp.Options{Roots: f.SNPPKI().Roots()}}),
		GPUs: gpus.New(gpus.Options{Roots: f.GPUPKI().Roots(), RIMRoots: f.GPUPKI().RIMRoots()})},
		Burst: 1000, PerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return h.URL
}

// challenged asks a verifier for a challenge.
func challenged(t *testing.T, url string) digest.SHA256 {
	t.Helper()
	resp, err := http.Post(url+"/cocoon.verifier.v1.VerifierService/Challenge", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct{ Challenge string }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		t.Fatal(err)
	}
	d, err := digest.Parse256(doc.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// bundle writes what a machine of the fleet shows for a challenge.
func bundle(t *testing.T, f *testfleet.Fleet, kind string, challenge digest.SHA256) (path string, ev *evidence.Evidence) {
	t.Helper()
	m, err := f.Machine(kind, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := m.Evidence(challenge)
	if err != nil {
		t.Fatal(err)
	}
	if ev, err = evidence.Parse(doc); err != nil {
		t.Fatal(err)
	}
	return write(t, doc), ev
}

func write(t *testing.T, doc []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "evidence.json")
	if err := os.WriteFile(path, doc, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func recorded(t *testing.T, ev *evidence.Foreign) string {
	t.Helper()
	ev.Profile = evidence.ProfileForeign
	doc, err := ev.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return write(t, doc)
}

// opener gives a file to the page.
type opener func(t *testing.T, ctx context.Context, path string)

// drag drops a file onto the page as a desktop does: the browser itself makes
// the events and their DataTransfer of it.
func drag(selector string) opener {
	return func(t *testing.T, ctx context.Context, path string) {
		t.Helper()
		at := get(t, ctx, chromedp.Evaluate[struct{ X, Y float64 }](`(() => { scrollTo(0, 0); const r = document.querySelector("`+selector+`").getBoundingClientRect(); return { X: r.x + r.width / 2, Y: r.y + r.height / 2 }; })()`))
		for _, typ := range []string{"dragEnter", "dragOver", "drop"} {
			if typ == "drop" && !get(t, ctx, chromedp.Evaluate[bool](`document.querySelector("#drop").classList.contains("over")`)) {
				t.Error("nothing shows where the file would go")
			}
			p := input.DispatchDragEventParams{Type: input.DispatchDragEventType(typ), X: at.X, Y: at.Y,
				Data: &input.DragData{Items: []*input.DragDataItem{}, Files: []string{path}, DragOperationsMask: 1}}
			if _, err := chromedp.Call(ctx, input.DispatchDragEvent, p); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// choose opens a file by the input.
func choose(t *testing.T, ctx context.Context, path string) {
	t.Helper()
	act(t, ctx, chromedp.SetUploadFiles("#file", []string{path}))
}

// give clears the page, gives it a file, and returns what becomes of it.
func give(t *testing.T, ctx context.Context, by opener, path string) (head, all string) {
	t.Helper()
	act(t, ctx, chromedp.Click("#clear"))
	by(t, ctx, path)
	return outcome(t, ctx)
}

// badges returns what the parts of the tree are marked with, by title.
func badges(t *testing.T, ctx context.Context) map[string]string {
	t.Helper()
	return get(t, ctx, chromedp.Evaluate[map[string]string](`Object.fromEntries([...document.querySelectorAll(".part > summary")].map((s) => [s.querySelector(".id").textContent, s.querySelector(".badge").textContent]))`))
}

const (
	titleCPU = "CPU: hardware, platform, quote"
	titleOwn = "As evidence of ours: refused"
)

func TestBundlesInABrowser(t *testing.T) {
	ctx := browser(t)
	f, err := testfleet.New("page")
	if err != nil {
		t.Fatal(err)
	}
	other, err := testfleet.New("another")
	if err != nil {
		t.Fatal(err)
	}
	url := fleetService(t, f)
	act(t, ctx, chromedp.EmulateViewport(1100, 900), chromedp.Navigate(url), chromedp.WaitVisible("#show"))

	// A machine's evidence for this verifier's challenge: dropped on the field, and
	// beside it, and by the file input.
	for name, by := range map[string]opener{"tdx-dropped": drag("#drop"), "tdx-dropped-beside": drag("footer"), "tdx-opened": choose} {
		path, _ := bundle(t, f, testfleet.TDX, challenged(t, url))
		head, all := give(t, ctx, by, path)
		wants(t, name, head, "Verified, with a warning")
		wants(t, name, all, "Signed by this verifier", "test roots", "test-fleet version 1", "tdx.")
		if b := badges(t, ctx); b[titleCPU] != "warning" || b["Verdict: signature and dates"] != "pass" || b["Image: firmware, kernel, root"] != "affirming" {
			t.Errorf("%s: the tree says %v", name, b)
		}
		shoot(t, ctx, name)
	}
	path, gpu := bundle(t, f, testfleet.GPU, challenged(t, url))
	head, all := give(t, ctx, drag("#drop"), path)
	wants(t, "a GPU's machine", head, "Verified, with a warning")
	wants(t, "a GPU's machine", all, "snp.", "gpu.", "GPU 0")
	if b := badges(t, ctx); b["GPU 0"] != "warning" || b["Model: which weights"] != "affirming" {
		t.Errorf("a GPU's machine: the tree says %v", b)
	}
	shoot(t, ctx, "gpu-dropped")

	// The same again answers no challenge: what is left of it is its TCB.
	head, all = give(t, ctx, drag("#drop"), path)
	wants(t, "a bundle twice", head, "Foreign evidence, not accepted")
	wants(t, "a bundle twice", all, "nonce.challenge", "foreign.unbound", "A challenge serves one attempt")
	if b := badges(t, ctx); b[titleCPU] != "warning" || b["GPU 0"] != "warning" || b[titleOwn] != "contraindicated" || len(b) != 3 {
		t.Errorf("a bundle twice: the tree says %v", b)
	}
	if strings.Contains(head, "failed") {
		t.Errorf("a bundle twice: %s", head)
	}
	shoot(t, ctx, "foreign-stale")

	td, ev := bundle(t, f, testfleet.TDX, challenged(t, url))
	elsewhere, _ := bundle(t, other, testfleet.TDX, digest.Sum256([]byte("none of ours")))
	for _, c := range []struct {
		name, path, head string
		want             []string
		badges           map[string]string
	}{
		{"a recorded TD", recorded(t, &evidence.Foreign{CPU: &ev.CPU, Collateral: ev.Collateral}), "Foreign evidence, not accepted", []string{"foreign.unbound", "rtmr0", "Never accepted, never affirming"}, map[string]string{titleCPU: "warning"}},
		{"GPUs alone", recorded(t, &evidence.Foreign{GPUs: gpu.GPUs, Collateral: gpu.Collateral}), "Foreign evidence, not accepted", []string{"foreign.unbound", "Never accepted, never affirming"}, map[string]string{"GPU 0": "warning"}},
		{"of another maker", elsewhere, "Foreign evidence, not accepted: ", []string{"dcap.collateral.root"}, map[string]string{titleCPU: "contraindicated", titleOwn: "contraindicated"}},
		{"of no profile", write(t, []byte(`{"profile":"urn:cocoon:evidence:foreign:2","gpus":[{}]}`)), "No answer", []string{"HTTP 400", "profile"}, map[string]string{}},
		{"empty", write(t, nil), "Cannot be read", []string{"nothing to show"}, map[string]string{}},
	} {
		head, all := give(t, ctx, drag("#drop"), c.path)
		if !strings.HasPrefix(head, c.head) || c.head == "Foreign evidence, not accepted" && head != c.head {
			t.Errorf("%s: %s\n%s", c.name, head, all)
		}
		wants(t, c.name, all, c.want...)
		got := badges(t, ctx)
		if len(got) != len(c.badges) {
			t.Errorf("%s: the tree says %v", c.name, got)
		}
		for part, want := range c.badges {
			if got[part] != want {
				t.Errorf("%s: the tree says %v", c.name, got)
			}
		}
		if len(c.badges) > 0 {
			shoot(t, ctx, "foreign-"+strings.ReplaceAll(c.name, " ", "-"))
		}
	}

	// Who says that a bundle is recorded uses no challenge up, and may name a time,
	// which decides.
	act(t, ctx, chromedp.Click("#clear"), chromedp.Click("#recorded summary"), chromedp.Click("#foreign"), chromedp.SetValue("#at", "2020-01-01T00:00:00Z"))
	drag("#drop")(t, ctx, td)
	head, all = outcome(t, ctx)
	wants(t, "as of 2020", head, "Foreign evidence, not accepted: ")
	wants(t, "as of 2020", all, "2020-01-01T00:00:00Z", "foreign.unbound")
	head, all = give(t, ctx, choose, td) // clearing unticks
	wants(t, "for its challenge", head, "Verified, with a warning")
	wants(t, "for its challenge", all, "Signed by this verifier")

	// A file of more bytes than evidence has is not read.
	head, all = give(t, ctx, drag("#drop"), write(t, make([]byte, evidence.MaxEvidence+1)))
	wants(t, "a large file", head, "Cannot be read")
	wants(t, "a large file", all, "more than 8388608 bytes")
}
