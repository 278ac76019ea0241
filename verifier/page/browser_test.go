package page_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"cocoon/internal/needtool"
	"cocoon/internal/toolstree"
)

// browser returns a headless Chromium with a profile of its own.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := needtool.Find(t, "chromium", "chromium-browser", "google-chrome")
	o := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoFirstRun, chromedp.NoSandbox, chromedp.Headless}
	for _, f := range []string{"disable-gpu", "disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage"} {
		o = append(o, chromedp.Flag(f, true))
	}
	o = append(o, chromedp.WSURLReadTimeout(90*time.Second))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), o...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 15*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// act runs steps in the browser.
func act(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// get runs an action in the browser and returns its result.
func get[T any](t *testing.T, ctx context.Context, a chromedp.Action[T]) T {
	t.Helper()
	v, err := chromedp.Run(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// scheme makes the browser prefer light or dark.
func scheme(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}}); err != nil {
		t.Fatal(err)
	}
}

// shoot writes a picture of the whole page under build/page.
func shoot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	png := get(t, ctx, chromedp.FullScreenshot(100))
	dir := filepath.Join(root, "build", "page")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		t.Fatal(err)
	}
}

// look pastes text, asks to see it, and returns headline and the whole
// outcome.
func look(t *testing.T, ctx context.Context, text string) (head, all string) {
	t.Helper()
	act(t, ctx, chromedp.Click("#clear"))
	if text != "" { // which clearing has done
		act(t, ctx, chromedp.SetValue("#text", text))
	}
	act(t, ctx, chromedp.Click("#show"))
	return outcome(t, ctx)
}

// outcome waits for headline and the whole outcome.
func outcome(t *testing.T, ctx context.Context) (head, all string) {
	t.Helper()
	act(t, ctx, chromedp.WaitVisible("#outcome:not([aria-busy]) #verdict h2"))
	return get(t, ctx, chromedp.Text("#verdict h2")), get(t, ctx, chromedp.TextContent("#outcome"))
}

func wants(t *testing.T, name, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%s: nothing says %q:\n%s", name, w, got)
		}
	}
}
