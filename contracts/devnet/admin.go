package devnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/address"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// adminSocket lies in the chain's directory, whose permissions guard it.
const adminSocket = "admin.sock"

// maxAdminBody bounds requests and answers on the admin socket.
const maxAdminBody = 64 << 10

// Status is what a running devnet says about itself.
type Status struct {
	Listen   string    `json:"listen"`
	GlobalID int32     `json:"global_id"`
	Seqno    uint32    `json:"seqno"`
	Time     time.Time `json:"time"`
	Config   string    `json:"config"` // path of its global.config.json
	Wallets  []Wallet  `json:"wallets,omitempty"`
}

type faucetRequest struct {
	To   string `json:"to"`
	Nano string `json:"nanoton"`
}

type timeRequest struct {
	Seconds uint64 `json:"seconds"`
}

// adminAnswer carries a Status or a fault.
type adminAnswer struct {
	Status *Status `json:"status,omitempty"`
	Code   string  `json:"code,omitempty"`
	Error  string  `json:"error,omitempty"`
	Remedy string  `json:"remedy,omitempty"`
	Exit   int     `json:"exit,omitempty"`
}

type admin struct {
	devnet *Devnet
	http   *http.Server
	wg     sync.WaitGroup
}

func startAdmin(d *Devnet, path string) (*admin, error) {
	// A socket left by a killed process; the store's lock says it is ours.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing an old admin socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "ton.devnet.admin_socket", "choose a shorter --state",
			"opening the admin socket: %w", err)
	}
	a := &admin{devnet: d}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) { a.reply(w, nil) })
	mux.HandleFunc("POST /faucet", func(w http.ResponseWriter, r *http.Request) {
		var q faucetRequest
		a.reply(w, a.read(r, &q, func() error { return a.faucet(r.Context(), q) }))
	})
	mux.HandleFunc("POST /advance", func(w http.ResponseWriter, r *http.Request) {
		var q timeRequest
		a.reply(w, a.read(r, &q, func() error {
			if q.Seconds > math.MaxUint32 {
				return fault.New(fault.ExitInternal, "ton.devnet.time_range", "advance by less", "advancing the clock by %d s", q.Seconds)
			}
			return d.Advance(r.Context(), time.Duration(q.Seconds)*time.Second)
		}))
	})
	a.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		if err := a.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			d.chain.log.Error("serving the admin socket", "error", err)
		}
	}()
	return a, nil
}

func (a *admin) close() error {
	err := a.http.Close()
	a.wg.Wait()
	return err
}

func (a *admin) read(r *http.Request, v any, f func() error) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, maxAdminBody))
	if err != nil {
		return err
	}
	if err := jcs.Decode(b, maxAdminBody, v); err != nil {
		return fault.New(fault.ExitParse, "ton.devnet.bad_request", "", "reading an admin request: %w", err)
	}
	return f()
}

func (a *admin) faucet(ctx context.Context, q faucetRequest) error {
	to, err := ParseAddress(q.To)
	if err != nil {
		return err
	}
	nano, ok := new(big.Int).SetString(q.Nano, 10)
	if !ok {
		return fault.New(fault.ExitInternal, "ton.devnet.bad_amount", "name an amount in nanotons", "reading the amount %q", q.Nano)
	}
	return a.devnet.Faucet(ctx, to, nano)
}

func (a *admin) reply(w http.ResponseWriter, err error) {
	var ans adminAnswer
	if err == nil {
		ans.Status = a.devnet.Status()
	} else {
		ans = adminAnswer{Error: err.Error(), Code: "ton.devnet.failed", Exit: fault.ExitCode(err)}
		if fs := fault.All(err); len(fs) > 0 {
			ans.Code, ans.Remedy, ans.Error = fs[0].Code, fs[0].Remedy, fs[0].Msg
		}
	}
	w.Header().Set("Content-Type", "application/json")
	// A client that went away is not the devnet's business.
	_ = json.NewEncoder(w).Encode(ans)
}

// Status describes the running devnet.
func (d *Devnet) Status() *Status {
	h := d.chain.lastHeight()
	return &Status{Listen: d.Addr(), GlobalID: d.id.GlobalID, Seqno: h.seqno,
		Time: d.Now().UTC().Truncate(time.Second), Config: filepath.Join(d.dir, ConfigFile), Wallets: d.wallets}
}

// ParseAddress reads an address in either of its text forms.
func ParseAddress(s string) (*address.Address, error) {
	a, err := address.ParseAddr(s)
	if err != nil {
		a, err = address.ParseRawAddr(s)
	}
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "ton.address.malformed", "give it as EQ…, UQ… or 0:hex",
			"parsing the address %q: %w", s, err)
	}
	return a, nil
}

// Admin talks to a devnet that runs in another process, over the socket in its
// directory.
type Admin struct{ client *http.Client }

// NewAdmin returns the admin client for the devnet in dir.
func NewAdmin(dir string) *Admin {
	path := filepath.Join(dir, adminSocket)
	return &Admin{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}}}
}

// Status asks for the status.
func (a *Admin) Status(ctx context.Context) (*Status, error) {
	return a.do(ctx, http.MethodGet, "/status", nil)
}

// Faucet sends nanotons to an address.
func (a *Admin) Faucet(ctx context.Context, to *address.Address, nano *big.Int) (*Status, error) {
	return a.do(ctx, http.MethodPost, "/faucet", faucetRequest{To: to.StringRaw(), Nano: nano.String()})
}

// Advance moves the chain's clock forward, in whole seconds.
func (a *Admin) Advance(ctx context.Context, by time.Duration) (*Status, error) {
	if by < 0 {
		return nil, fault.New(fault.ExitInternal, "ton.devnet.time_backwards", "name a positive duration", "advancing the clock by %s", by)
	}
	return a.do(ctx, http.MethodPost, "/advance", timeRequest{Seconds: uint64(by / time.Second)})
}

func (a *Admin) do(ctx context.Context, method, path string, body any) (*Status, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("writing an admin request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://devnet"+path, bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("writing an admin request: %w", err)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "ton.devnet.not_running", "start it with `cocoon devnet --state DIR`, and name the same DIR",
			"asking the devnet: %w", err)
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(io.LimitReader(resp.Body, maxAdminBody))
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "ton.devnet.not_running", "", "reading the devnet's answer: %w", err)
	}
	var ans adminAnswer
	if err := jcs.Decode(b, maxAdminBody, &ans); err != nil {
		return nil, fault.New(fault.ExitParse, "ton.devnet.bad_answer", "", "reading the devnet's answer: %w", err)
	}
	if ans.Status == nil {
		return nil, fault.New(ans.Exit, ans.Code, ans.Remedy, "%s", ans.Error)
	}
	return ans.Status, nil
}
