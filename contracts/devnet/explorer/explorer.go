// Package explorer serves a devnet's accounts, blocks, transactions and decoded
// messages as plain pages for people: HTML made here, one style sheet, no
// script. It reads only. In: a running devnet; out: an HTTP handler.
package explorer

import (
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton/wallet"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/compiled"
	"cocoon/contracts/devnet"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/tolk"
	"cocoon/internal/fault"
)

//go:embed pages.html style.css
var files embed.FS

const (
	blocksShown   = 12
	accountsShown = 50
	historyShown  = 25
)

// Explorer serves pages until Close.
type Explorer struct {
	net    *devnet.Devnet
	pages  *template.Template
	names  map[string]string // code hash -> what the contract is
	server *http.Server
	listen net.Listener
}

// Start serves the pages on an address of this machine.
func Start(d *devnet.Devnet, listen string) (*Explorer, error) {
	e := &Explorer{net: d, names: map[string]string{}}
	for name, load := range map[string]func() (*compiled.Artefact, error){"registry": compiled.Registry, "job": compiled.Job} {
		a, err := load()
		if err != nil {
			return nil, err
		}
		e.names[a.CodeHashHex] = name
	}
	pub := make([]byte, 32)
	for name, version := range map[string]any{"wallet v5r1": wallet.ConfigV5R1Final{NetworkGlobalID: devnet.GlobalID}, "wallet v4r2": wallet.V4R2,
		"highload wallet v3": wallet.ConfigHighloadV3{MessageTTL: 600}} {
		init, err := wallet.GetStateInit(pub, version, 0)
		if err != nil {
			return nil, fmt.Errorf("naming a wallet's code: %w", err)
		}
		e.names[hex.EncodeToString(init.Code.Hash())] = name
	}
	var err error
	e.pages, err = template.New("").Funcs(template.FuncMap{"ton": tons, "hex": hex.EncodeToString, "short": short, "addr": friendly}).ParseFS(files, "pages.html")
	if err != nil {
		return nil, fmt.Errorf("reading the explorer's pages: %w", err)
	}
	if e.listen, err = net.Listen("tcp", listen); err != nil {
		return nil, fault.New(fault.ExitNetwork, "ton.devnet.explorer", "name another address with --explorer", "serving the explorer: %w", err)
	}
	e.server = &http.Server{Handler: e.handler(), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() { _ = e.server.Serve(e.listen) }() // ends with Close
	return e, nil
}

// URL is where the pages are.
func (e *Explorer) URL() string { return "http://" + e.listen.Addr().String() + "/" }

// Close stops serving.
func (e *Explorer) Close() error { return e.server.Close() }

func (e *Explorer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", e.page("home", e.home))
	mux.HandleFunc("GET /block/{seqno}", e.page("block", e.block))
	mux.HandleFunc("GET /account/{id}", e.page("account", e.account))
	mux.HandleFunc("GET /search", e.search)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "style.css") })
	return mux
}

var errNotFound = errors.New("there is no such thing on this chain")

// page runs a handler and writes its page, or says why there is none.
func (e *Explorer) page(name string, data func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := data(r)
		status, page := http.StatusOK, name
		if err != nil {
			v, page, status = err.Error(), "error", http.StatusInternalServerError
			if errors.Is(err, errNotFound) {
				status = http.StatusNotFound
			}
		}
		var b strings.Builder
		if err := e.pages.ExecuteTemplate(&b, page, v); err != nil {
			http.Error(w, "writing the page failed", http.StatusInternalServerError)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(b.String())) // a reader that went away
	}
}

type account struct {
	devnet.Account
	Name string
}

func (e *Explorer) named(a *devnet.Account) account {
	n := account{Account: *a}
	if a.Code != nil {
		if n.Name = e.names[hex.EncodeToString(a.Code.Hash())]; n.Name == "" {
			n.Name = "unknown code " + short(a.Code.Hash())
		}
	}
	return n
}

func (e *Explorer) home(*http.Request) (any, error) {
	var v struct {
		Status   *devnet.Status
		Blocks   []*devnet.Block
		Accounts []account
		Count    int
	}
	v.Status = e.net.Status()
	for seqno := v.Status.Seqno; seqno > 0 && len(v.Blocks) < blocksShown; seqno-- {
		b, err := e.net.Block(seqno)
		if err != nil {
			return nil, err
		}
		v.Blocks = append(v.Blocks, b)
	}
	all, n, err := e.net.Accounts(accountsShown)
	if err != nil {
		return nil, err
	}
	v.Count = n
	for _, a := range all {
		v.Accounts = append(v.Accounts, e.named(&a))
	}
	return v, nil
}

func (e *Explorer) block(r *http.Request) (any, error) {
	seqno, err := strconv.ParseUint(r.PathValue("seqno"), 10, 32)
	if err != nil {
		return nil, errNotFound
	}
	b, err := e.net.Block(uint32(seqno))
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, errNotFound
	}
	txs, err := e.transactions(b.Transactions)
	return struct {
		*devnet.Block
		Shown []transaction
	}{b, txs}, err
}

func (e *Explorer) account(r *http.Request) (any, error) {
	a, err := devnet.ParseAddress(r.PathValue("id"))
	if err != nil || a.Type() != address.StdAddress || a.Workchain() != 0 {
		return nil, errNotFound
	}
	before, err := strconv.ParseUint(r.URL.Query().Get("before"), 10, 64)
	if err != nil {
		before = 0
	}
	acc, err := e.net.Account(a.Data())
	if err != nil {
		return nil, err
	}
	history, err := e.net.History(a.Data(), before, historyShown)
	if err != nil {
		return nil, err
	}
	if acc == nil && len(history) == 0 {
		return nil, errNotFound
	}
	v := struct {
		ID      []byte
		Account *account
		Shown   []transaction
		Before  uint64 // of the next page, 0 for none
	}{ID: a.Data()}
	if acc != nil {
		n := e.named(acc)
		v.Account = &n
	}
	if len(history) == historyShown {
		v.Before = history[len(history)-1].LT
	}
	v.Shown, err = e.transactions(history)
	return v, err
}

// search leads from an address or a block's number to its page.
func (e *Explorer) search(w http.ResponseWriter, r *http.Request) {
	q := strings.TrimSpace(r.URL.Query().Get("q"))
	to := "/account/" + url.PathEscape(q)
	if _, err := strconv.ParseUint(q, 10, 32); err == nil {
		to = "/block/" + q
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// transaction is one as the pages show it.
type transaction struct {
	devnet.Transaction
	Time     time.Time
	In       *message
	Out      []message
	Outcome  string
	Failed   bool
	Gas      string
	FeesNano string
}

// message is one as the pages show it.
type message struct {
	Kind     string // internal, external, event
	From, To string // raw addresses, empty outside the chain
	Nano     string
	Bounced  bool
	Decoded  *tolk.Message
	Body     string // hash, where it is not decoded
}

func (e *Explorer) transactions(txs []devnet.Transaction) ([]transaction, error) {
	var out []transaction
	for _, tx := range txs {
		t := transaction{Transaction: tx, Time: time.Unix(int64(tx.Now), 0).UTC(), FeesNano: tx.TotalFees.Coins.Nano().String()}
		if tx.IO.In != nil {
			t.In = show(tx.IO.In)
		}
		if tx.IO.Out != nil {
			msgs, err := tx.IO.Out.ToSlice()
			if err != nil {
				return nil, fmt.Errorf("reading a transaction's messages: %w", err)
			}
			for i := range msgs {
				t.Out = append(t.Out, *show(&msgs[i]))
			}
		}
		t.outcome()
		out = append(out, t)
	}
	return out, nil
}

func (t *transaction) outcome() {
	d, ok := t.Description.(tlb.TransactionDescriptionOrdinary)
	if !ok {
		t.Outcome = "not an ordinary transaction"
		return
	}
	vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM)
	switch {
	case !ok:
		t.Outcome = "no code"
	case !vm.Success:
		code := exitcode.Code(vm.Details.ExitCode)
		t.Outcome, t.Failed = fmt.Sprintf("exit code %d", vm.Details.ExitCode), true
		if code.Known() {
			t.Outcome += ": " + code.Text()
		}
	case d.ActionPhase != nil && !d.ActionPhase.Success:
		t.Outcome, t.Failed = fmt.Sprintf("actions failed with code %d", d.ActionPhase.ResultCode), true
	default:
		t.Outcome = "ok"
	}
	if ok {
		t.Gas = vm.Details.GasUsed.String()
	}
}

func show(m *tlb.Message) *message {
	var v message
	var body *cell.Cell
	switch m.MsgType {
	case tlb.MsgTypeInternal:
		in := m.AsInternal()
		v = message{Kind: "internal", From: raw(in.SrcAddr), To: raw(in.DstAddr), Nano: in.Amount.Nano().String(), Bounced: in.Bounced}
		body = in.Body
	case tlb.MsgTypeExternalIn:
		in := m.AsExternalIn()
		v = message{Kind: "external", To: raw(in.DstAddr)}
		body = in.Body
	default:
		out := m.AsExternalOut()
		v = message{Kind: "event", From: raw(out.SrcAddr)}
		body = out.Body
	}
	if d, ok := tolk.Decode(body); ok {
		v.Decoded = d
	} else if body != nil && (body.BitsSize() > 0 || body.RefsNum() > 0) {
		v.Body = hex.EncodeToString(body.Hash())
	}
	return &v
}

func raw(a *address.Address) string {
	if a == nil || a.Type() != address.StdAddress {
		return ""
	}
	return a.StringRaw()
}

func friendly(id []byte) string { return address.NewAddress(0, 0, id).Bounce(false).String() }

func short(b []byte) string { return hex.EncodeToString(b[:min(4, len(b))]) + "…" }

// tons writes nanotons as TON without trailing zeros.
func tons(nano any) string {
	s := fmt.Sprintf("%010s", fmt.Sprint(nano))
	s = strings.TrimRight(s[:len(s)-9]+"."+s[len(s)-9:], "0")
	return strings.TrimSuffix(s, ".")
}
