package services

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/verifier/internal/fetch"
	"cocoon/verifier/nvgpu/rim"
)

// Limits of the service's answers.
const (
	maxRIMAnswer = 2 * rim.MaxDocument
	maxIDsAnswer = maxEntry / 2
	maxIDs       = 20000
)

// Formats of the service. Only TCG, which is SWID, is read here.
const formatTCG = "TCG"

// RIM is a reference integrity manifest whose signature and chain verified;
// whether its signer is valid now is for rim.Verify to say.
type RIM struct {
	ID      string
	Raw     []byte
	Doc     *rim.Document
	Fetched time.Time
	Stale   bool // the service did not answer, and this is older than the TTL
	From    Origin
}

// Origin says where an answer came from.
type Origin = fetch.Origin

var idRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// RIM returns the manifest of an id. One that is held and younger than the
// TTL is returned without asking. Where the service does not answer, one that
// is held is returned to MaxStale, marked as stale; where the service says
// that it has none, nothing is.
//
// Errors carry faults: rim.service.not_found (IsNotFound) and other
// rim.service.* where there is no answer (exit 3), rim.service.format, .id,
// .sha256 and .version where the answer is not what was asked for, those of
// rim.Verify where it does not verify.
func (c *Client) RIM(ctx context.Context, id string) (*RIM, error) {
	if !idRE.MatchString(id) {
		return nil, fault.New(fault.ExitInternal, "rim.service.request", "give an id as NVIDIA's service lists them", "asking for RIM %.128q: not an id", id)
	}
	key := "rim " + id
	now := c.opts.Clock()
	have := c.heldRIM(ctx, id, now)
	if have != nil && fresh(have.Fetched, now, c.opts.TTL) {
		have.From = Origin{Held: true}
		return have, nil
	}
	e, err := c.once(ctx, key, func(ctx context.Context) (*entry, error) { return c.fetchRIM(ctx, id, have) })
	if err == nil {
		d, err := c.verify(id, e.Data)
		if err != nil {
			return nil, err
		}
		return &RIM{ID: id, Raw: e.Data, Doc: d, Fetched: e.Fetched, Stale: now.Sub(e.Fetched) >= c.opts.TTL}, nil
	}
	if have != nil && !IsNotFound(err) && now.Sub(have.Fetched) <= c.opts.MaxStale {
		have.Stale, have.From = true, Origin{Held: true, Refresh: err}
		c.log.LogAttrs(ctx, slog.LevelWarn, "using a stale manifest", slog.String("id", id), slog.Duration("age", now.Sub(have.Fetched)), slog.Any("error", err))
		return have, nil
	}
	return nil, err
}

// heldRIM returns the manifest of an id that is held, or nil. Where cache and
// bundle differ, the newer signer wins, if its chain is valid.
func (c *Client) heldRIM(ctx context.Context, id string, now time.Time) *RIM {
	var best *RIM
	for _, e := range c.candidates("rim " + id) {
		d, err := c.verify(id, e.Data)
		if err != nil {
			c.log.LogAttrs(ctx, slog.LevelWarn, "ignoring a held manifest", slog.String("id", id), slog.Any("error", err))
			continue
		}
		if best == nil || (d.SignerNotBefore().After(best.Doc.SignerNotBefore()) && now.Before(d.NotAfter) && !now.Before(d.NotBefore)) {
			best = &RIM{ID: id, Raw: e.Data, Doc: d, Fetched: e.Fetched}
			if e.common {
				c.believe("rim "+id, e)
			}
		}
	}
	return best
}

// rimAnswer is an answer of the service, which may gain fields.
type rimAnswer struct {
	ID          string `json:"id"`
	RIM         []byte `json:"rim"`
	SHA256      string `json:"sha256"`
	LastUpdated string `json:"last_updated,omitempty"`
	Format      string `json:"rim_format"`
	RequestID   string `json:"request_id,omitempty"`
}

func (c *Client) fetchRIM(ctx context.Context, id string, have *RIM) (*entry, error) {
	if e := c.fresher("rim "+id, c.opts.TTL, func(e *entry) bool {
		d, err := c.verify(id, e.Data)
		return err == nil && (have == nil || !d.SignerNotBefore().Before(have.Doc.SignerNotBefore()))
	}); e != nil {
		return e, nil
	}
	r, ferr := c.get.Do(ctx, fetch.Request{URL: c.rim + "/v1/rim/" + id, Accept: "application/json", Limit: maxRIMAnswer})
	if ferr != nil {
		return nil, ferr
	}
	raw, err := openRIM(id, r.Body)
	if err != nil {
		return nil, err
	}
	d, err := c.verify(id, raw)
	if err != nil {
		return nil, err
	}
	e := &entry{Fetched: c.fetchedAt(r), Data: raw}
	// NVIDIA signs a manifest anew under the same id: an older signer is a
	// replay, by a cache on the way or by the service.
	if have != nil && d.SignerNotBefore().Before(have.Doc.SignerNotBefore()) && c.opts.Clock().Before(have.Doc.NotAfter) {
		c.log.LogAttrs(ctx, slog.LevelWarn, "the service answered with an older signature, keeping what is held", slog.String("id", id),
			slog.Time("held", have.Doc.SignerNotBefore()), slog.Time("answered", d.SignerNotBefore()))
		e.Data = have.Raw
	}
	c.keep("rim "+id, e, c.opts.MaxStale)
	return e, nil
}

// fetchedAt is when an answer came from NVIDIA's service: a cache on the way
// says in Age how long it has held it (RFC 9111, section 5.1). A cache that
// claims more than it should makes its answers older, never newer.
func (c *Client) fetchedAt(r *fetch.Response) time.Time {
	now := c.opts.Clock()
	if age, err := strconv.ParseUint(r.Header.Get("Age"), 10, 31); err == nil {
		return now.Add(-time.Duration(age) * time.Second)
	}
	return now
}

// openRIM takes the document out of an answer: it must echo the id, be of the
// format that is read here, and have the stated hash.
func openRIM(id string, body []byte) ([]byte, error) {
	bad := func(code, what string, expected, actual string) error {
		return &fault.Fault{Code: "rim.service." + code, Exit: fault.ExitNetwork, Msg: "reading the answer for " + id + ": " + what, Expected: expected, Actual: actual,
			Remedy: "use NVIDIA's service or another cache: this one does not answer as the API says"}
	}
	var a rimAnswer
	if err := lenient(body, &a); err != nil {
		return nil, bad("format", err.Error(), "", "")
	}
	sum := sha256.Sum256(a.RIM)
	switch {
	case a.ID != id:
		return nil, bad("id", "another id", id, fmt.Sprintf("%.128q", a.ID))
	case !strings.EqualFold(a.Format, formatTCG):
		return nil, bad("format", "another format", formatTCG, fmt.Sprintf("%.32q", a.Format))
	case !strings.EqualFold(a.SHA256, hex.EncodeToString(sum[:])):
		return nil, bad("sha256", "another hash", fmt.Sprintf("%.64q", a.SHA256), hex.EncodeToString(sum[:]))
	}
	return a.RIM, nil
}

// lenient decodes JSON of another party: duplicate keys are refused, unknown
// ones are not.
func lenient(b []byte, v any) error {
	if err := jcs.Check(b); err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	return nil
}

// verify checks signature and chain, and that the document is of the version
// that the id names. An expired signer is the caller's matter.
func (c *Client) verify(id string, raw []byte) (*rim.Document, error) {
	d, _, err := rim.Verify(raw, &rim.Options{Roots: c.opts.Roots, Now: c.opts.Clock(), AllowExpired: true, Cache: c.opts.Docs})
	if err != nil {
		return nil, err
	}
	if !d.MatchesID(id) {
		f := fault.New(fault.ExitRefused, "rim.service.version", "use another service: this one mixes documents up", "verifying RIM: it is of another version than its id")
		f.Expected, f.Actual = id, d.Version
		return nil, f
	}
	return d, nil
}

const keyIDs = "ids"

// IDs are the ids that the service has.
type IDs struct {
	IDs     []string // sorted
	Fetched time.Time
	Stale   bool
}

// IDs returns the list of ids, from the cache as RIM does.
func (c *Client) IDs(ctx context.Context) (*IDs, error) {
	const key = keyIDs
	now := c.opts.Clock()
	open := func(e *entry) *IDs {
		var ids []string
		if e == nil || jcs.Decode(e.Data, maxEntry, &ids) != nil {
			return nil
		}
		return &IDs{IDs: ids, Fetched: e.Fetched}
	}
	have := open(c.held(key))
	if have != nil && fresh(have.Fetched, now, c.opts.TTL) {
		return have, nil
	}
	e, err := c.once(ctx, key, c.fetchIDs)
	if err == nil {
		return open(e), nil
	}
	if have != nil && now.Sub(have.Fetched) <= c.opts.MaxStale {
		have.Stale = true
		return have, nil
	}
	return nil, err
}

func (c *Client) fetchIDs(ctx context.Context) (*entry, error) {
	r, ferr := c.get.Do(ctx, fetch.Request{URL: c.rim + "/v1/rim/ids", Accept: "application/json", Limit: maxIDsAnswer})
	if ferr != nil {
		return nil, ferr
	}
	var a struct {
		IDs []string `json:"ids"`
	}
	err := lenient(r.Body, &a)
	if err == nil && (len(a.IDs) == 0 || len(a.IDs) > maxIDs) {
		err = fmt.Errorf("%d ids, want 1 to %d", len(a.IDs), maxIDs)
	}
	for _, id := range a.IDs {
		if err == nil && !idRE.MatchString(id) {
			err = errors.New("an id that is none")
		}
	}
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "rim.service.format", "use NVIDIA's service or another cache: this one does not answer as the API says", "reading the list of RIMs: %w", err)
	}
	slices.Sort(a.IDs)
	data, err := jcs.Marshal(slices.Compact(a.IDs))
	if err != nil {
		return nil, err
	}
	e := &entry{Fetched: c.fetchedAt(r), Data: data}
	c.keep(keyIDs, e, 0)
	return e, nil
}

// statusOf is the HTTP status with which a cache passes an error on.
func statusOf(err error) int {
	switch {
	case IsNotFound(err):
		return http.StatusNotFound
	case fault.Has(err, "rim.service.request"), fault.Has(err, "ocsp.request"):
		return http.StatusBadRequest
	case fault.Has(err, "rim.service.rate_limited"):
		return http.StatusTooManyRequests
	default:
		return http.StatusBadGateway
	}
}
