package explorer_test

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/compiled"
	"cocoon/contracts/devnet"
	"cocoon/contracts/devnet/explorer"
	"cocoon/internal/needtool"
	"cocoon/internal/toolstree"
)

// world is a devnet whose history has a comment, a deployed contract that
// refuses a message of ours, and the bounce of that.
type world struct {
	url           string
	wallet, other *address.Address
	contract      *address.Address
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now() // its clock stands: no block comes because the newest is old
	d, err := devnet.Start(ctx, devnet.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Wallets: 1, Clock: func() time.Time { return began }})
	ok(err)
	t.Cleanup(func() { _ = d.Close() })
	cfg, err := d.ConfigJSON()
	ok(err)
	c, err := chain.Open(cfg, chain.Options{})
	ok(err)
	t.Cleanup(func() { _ = c.Close() })
	b, err := os.ReadFile(d.Wallets()[0].Key)
	ok(err)
	seed, err := hex.DecodeString(strings.TrimSpace(string(b)))
	ok(err)
	w, err := c.Wallet(ctx, ed25519.NewKeyFromSeed(seed))
	ok(err)
	job, err := compiled.Job()
	ok(err)
	v := &world{wallet: w.Address(), other: address.NewAddress(0, 0, make([]byte, 32)).Bounce(false)}
	hello := cell.BeginCell().MustStoreUInt(0, 32).MustStoreStringSnake("<b>hello</b> & goodbye").EndCell()
	// Our code without our data refuses whatever comes.
	init := &tlb.StateInit{Code: job.Code, Data: cell.BeginCell().EndCell()}
	v.contract, err = chain.ContractAddress(init)
	ok(err)
	finish := cell.BeginCell().MustStoreUInt(0x434a0005, 32).MustStoreUInt(77, 64).EndCell()
	_, err = w.Send(ctx, chain.Message{To: v.other, Nano: big.NewInt(1_500_000_000), Body: hello},
		chain.Message{To: v.contract, Nano: big.NewInt(1_000_000_000)})
	ok(err)
	_, err = w.Send(ctx, chain.Message{To: v.contract, Nano: big.NewInt(500_000_000), Init: init, Body: finish, Bounce: true})
	ok(err)
	e, err := explorer.Start(d, "127.0.0.1:0")
	ok(err)
	t.Cleanup(func() { _ = e.Close() })
	v.url = e.URL()
	return v
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestPagesShowTheChain(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		path   string
		status int
		want   []string
	}{
		"home":               {"", 200, []string{"network -1009", "wallet v5r1", w.wallet.String(), "9997."}},
		"a wallet":           {"account/" + w.wallet.String(), 200, []string{"<h1>wallet v5r1</h1>", "internal, bounced", "ok, ", "Finish", "1.5 TON"}},
		"a receiver":         {"account/" + w.other.StringRaw(), 200, []string{"1.5 TON, uninit", "comment", "&lt;b&gt;hello&lt;/b&gt; &amp; goodbye", "no code"}},
		"a failing contract": {"account/" + w.contract.StringRaw(), 200, []string{"failed", "exit code ", "Finish", "queryId", ">77<"}},
		"a block":            {"block/2", 200, []string{"Block 2", "1.5 TON"}},
		"a search":           {"search?q=" + w.other.StringRaw(), 200, []string{"1.5 TON"}},
		"a block by search":  {"search?q=2", 200, []string{"Block 2"}},
		"no block":           {"block/999", 404, []string{"there is no such thing"}},
		"no account":         {"account/0:" + strings.Repeat("9", 64), 404, []string{"there is no such thing"}},
		"no address":         {"account/%3Cscript%3E", 404, []string{"there is no such thing"}},
		"another workchain":  {"account/-1:" + strings.Repeat("9", 64), 404, nil},
	} {
		t.Run(name, func(t *testing.T) {
			status, body, header := get(t, w.url+tc.path)
			if status != tc.status {
				t.Errorf("status %d", status)
			}
			for _, want := range tc.want {
				if !strings.Contains(body, want) {
					t.Errorf("nothing says %q in\n%s", want, body)
				}
			}
			if strings.Contains(body, "<script") || strings.Contains(body, "<b>hello") || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") {
				t.Errorf("it could run a script: %s", header.Get("Content-Security-Policy"))
			}
		})
	}
}

// TestBrowserShowsTheChain walks the pages in Chromium.
func TestBrowserShowsTheChain(t *testing.T) {
	path := needtool.Find(t, "chromium")
	w := newWorld(t)
	o := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoFirstRun, chromedp.NoSandbox, chromedp.Headless,
		chromedp.WSURLReadTimeout(90 * time.Second)}
	for _, f := range []string{"disable-gpu", "disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage"} {
		o = append(o, chromedp.Flag(f, true))
	}
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), o...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 4*time.Minute)
	t.Cleanup(cancel)
	act := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	text := func(sel string) string {
		t.Helper()
		v, err := chromedp.Run(ctx, chromedp.Text(sel))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	shoot := func(name string) {
		t.Helper()
		png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		if err != nil {
			t.Fatal(err)
		}
		root, err := toolstree.RepoRoot()
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(root, "build", "page")
		if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "devnet-"+name+".png"), png, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	act(chromedp.Navigate(w.url), chromedp.WaitVisible("#accounts"))
	if got := text("#accounts"); !strings.Contains(got, w.wallet.String()) || !strings.Contains(got, "wallet v5r1") {
		t.Errorf("the accounts: %s", got)
	}
	shoot("home")
	// To the contract by search, and into the message that it refused.
	act(chromedp.SetValue("#q", w.contract.StringRaw()), chromedp.Click("header button"), chromedp.WaitVisible("article.failed summary"), chromedp.Click("article.failed summary"))
	if got := text("article.failed"); !strings.Contains(got, "exit code") || !strings.Contains(got, "Finish") || !strings.Contains(got, "77") {
		t.Errorf("the refused message: %s", got)
	}
	shoot("account")
	// From there to the sender, by a link.
	act(chromedp.Click(`article.failed .message a[href="/account/`+w.wallet.StringRaw()+`"]`), chromedp.WaitVisible("#balance"))
	if got := text("h1"); got != "wallet v5r1" {
		t.Errorf("the link leads to %q", got)
	}
}
