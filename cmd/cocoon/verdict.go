package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/jwks"
	"cocoon/verifier/result"
)

// newVerdictCmd is the parent of what concerns verdicts.
func newVerdictCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "verdict", Short: "verify and show verdicts", Args: cobra.NoArgs}
	cmd.AddCommand(newVerdictVerifyCmd(), newVerdictShowCmd())
	return cmd
}

// verdictText is a verdict as it was handed over: the token, and the document of
// its checks, nil where the token came alone.
type verdictText struct {
	EAR    string `json:"ear"`
	Checks []byte `json:"checks"`
}

// maxVerdict bounds a verifier's answer as JSON, with all that it has beside the
// verdict.
const maxVerdict = client.MaxResponse

// readVerdict reads a verdict: the argument itself, a file, or "-" for standard
// input. A token has two dots and neither slashes nor spaces; what begins with a
// brace is a verifier's answer.
func readVerdict(in io.Reader, arg string) (*verdictText, error) {
	if strings.Count(arg, ".") == 2 && !strings.ContainsAny(arg, "/ ") && len(arg) > 100 {
		return &verdictText{EAR: arg}, nil
	}
	var b []byte
	var err error
	if arg == "-" {
		b, err = io.ReadAll(io.LimitReader(in, maxVerdict))
	} else {
		b, err = readInput("verdict", arg, maxVerdict)
	}
	if err != nil {
		return nil, err
	}
	text := strings.TrimSpace(string(b))
	if !strings.HasPrefix(text, "{") {
		return &verdictText{EAR: text}, nil
	}
	// What else is in an answer is not looked at: the token and what it has the
	// hash of say it all.
	v := &verdictText{}
	if err := json.Unmarshal([]byte(text), v); err != nil {
		return nil, fault.New(fault.ExitParse, "verdict.format", "give the token, or the answer that it came in", "reading verdict: %w", err)
	}
	return v, nil
}

// open reads the checks into a verdict's claims, where there are any.
func (v *verdictText) open(e *result.EAR) error {
	if len(v.Checks) == 0 {
		return nil
	}
	return e.OpenChecks(v.Checks)
}

// keyFlags say which verifiers' keys are believed.
type keyFlags struct {
	jwks string
	keys []string
}

func (f *keyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.jwks, "jwks", "", "believe the verifier keys in this JSON Web Key Set, a `file or URL`; a URL is believed as far as its TLS")
	cmd.Flags().StringArrayVar(&f.keys, "key", nil, "believe this verifier's raw Ed25519 key, `hex`; may be repeated")
	cmd.MarkFlagsOneRequired("jwks", "key")
}

// pinned returns the keys that the flags name.
func (f *keyFlags) pinned(ctx context.Context) ([]ed25519.PublicKey, error) {
	var out []ed25519.PublicKey
	var errs []error
	for _, k := range f.keys {
		d, err := digest.Parse256(strings.ToLower(k))
		if err != nil {
			errs = append(errs, usage("reading --key %.80q: not 32 bytes of hex", k))
			continue
		}
		out = append(out, d[:])
	}
	if f.jwks != "" {
		keys, err := readJWKS(ctx, f.jwks)
		errs = append(errs, err)
		out = append(out, keys...)
	}
	return out, errors.Join(errs...)
}

// fetchTimeout bounds the fetching of a small document.
const fetchTimeout = 20 * time.Second

// readJWKS reads a key set from a file or a URL.
func readJWKS(ctx context.Context, from string) ([]ed25519.PublicKey, error) {
	var doc []byte
	var err error
	if strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://") {
		doc, err = fetchJWKS(ctx, from)
	} else {
		doc, err = readInput("--jwks", from, jwks.MaxSize)
	}
	if err != nil {
		return nil, err
	}
	keys, err := jwks.Parse(doc)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "verdict.jwks", "give the verifier's key set (GET "+jwks.Path+")", "reading --jwks: %w", err)
	}
	return keys, nil
}

// fetchJWKS fetches a key set. Who answers decides which verdicts are good, so
// without TLS only this machine is asked, and no redirect is followed.
func fetchJWKS(ctx context.Context, from string) ([]byte, error) {
	u, err := url.Parse(from)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, usage("reading --jwks %.200q: not a URL", from)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, usage("reading --jwks %.200q: keys that come without TLS could be anybody's; use https or a file", from)
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, usage("reading --jwks: %w", err)
	}
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "verdict.jwks", "check the address, or give the keys as a file", "fetching --jwks: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, jwks.MaxSize+1))
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.ExitNetwork, "verdict.jwks", "check the address, or give the keys as a file", "fetching --jwks: HTTP status %d, %d bytes", resp.StatusCode, len(b))
	}
	return b, nil
}

// verdictLines writes what a verdict says.
func verdictLines(w io.Writer, e *result.EAR) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	class := classText(e.TrustClass, e.Development, e.TestRoots)
	stamp := func(s int64) string { return time.Unix(s, 0).UTC().Format(time.RFC3339) }
	key, err := e.ReceiptKey()
	if err != nil {
		return fmt.Errorf("reading verdict: %w", err)
	}
	line("status    %s", e.Status())
	line("class     %s", plain(class))
	line("from      %s until %s", stamp(e.IssuedAt), stamp(e.Expires))
	line("verifier  %s %s", plain(e.VerifierID.Developer), plain(e.VerifierID.Build))
	line("image     %s version %d", plain(e.Manifest.Name), e.Manifest.Version)
	line("manifest  %s", e.Manifest.SHA256)
	line("model     %s %s", plain(e.Model.Name), e.Model.VerityRoot)
	line("policy    %s", e.PolicySHA256)
	line("tls key   %s", e.TLSSPKISHA256)
	line("receipts  %s", key)
	if e.Payout != "" {
		line("payout    %s", plain(e.Payout))
	}
	line("checks    %s", e.ChecksSHA256)
	line("evidence  %s", e.EvidenceSHA256)
	for _, name := range submodNames(e) {
		s := e.Submods[name]
		if s.Claims == nil {
			line("%-9s %s", plain(name), s.Status)
			continue
		}
		line("%-9s %s, %d checks", plain(name), s.Status, len(s.Checks()))
		for _, c := range s.Checks() {
			text := plain(c.Actual)
			if c.Status != result.Pass {
				text = plain(c.Reason)
			}
			if r := []rune(text); len(r) > 100 {
				text = string(r[:100]) + "…"
			}
			line("  %-4s %s  %s", plain(c.Status), plain(c.ID), text)
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the verdict: %w", err)
	}
	return nil
}

// submodNames returns the submodules' names: CPU first, then by name.
func submodNames(e *result.EAR) []string {
	var out []string
	for n := range e.Submods {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == result.SubCPU:
			return -1
		case b == result.SubCPU:
			return 1
		}
		return strings.Compare(a, b)
	})
	return out
}
