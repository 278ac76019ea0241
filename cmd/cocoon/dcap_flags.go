package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/manifestfile"
	"cocoon/measurements/manifest"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/bundle"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/pck"
	"cocoon/verifier/policy"
	"cocoon/verifier/quote"
)

// collateralFlags say where collateral comes from and whom to trust for it.
// Several verbs share them.
type collateralFlags struct {
	collateral string
	pcs        string
	rootCRL    string
	update     string
	evaluation uint32
	cacheDir   string
	noCache    bool
	roots      string
	pckChain   string
	at         string
	padding    bool
	verbose    bool
}

func (f *collateralFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.collateral, "collateral", "", "read collateral from a JSON `file` or a directory of parts")
	fs.StringVar(&f.pcs, "pcs", "", "fetch collateral from the PCS or PCCS at this base `URL` (default "+pcs.IntelPCS+")")
	fs.StringVar(&f.rootCRL, "root-crl", "", "fetch the root CA's CRL from this `URL` (default: as the service has it)")
	fs.StringVar(&f.update, "update", "", "ask the service for the `early` or standard TCB evaluation (default standard)")
	fs.Uint32Var(&f.evaluation, "evaluation", 0, "ask the service for this TCB evaluation data `number`")
	fs.StringVar(&f.cacheDir, "cache-dir", "", "keep fetched collateral in this `directory` (default: cocoon/collateral in the user's cache directory)")
	fs.BoolVar(&f.noCache, "no-cache", false, "keep fetched collateral nowhere")
	fs.StringVar(&f.roots, "roots", "", "trust the root certificates in this PEM `file` instead of Intel's")
	fs.StringVar(&f.at, "at", "", "judge as of this `time`, RFC 3339 or Unix seconds (default now)")
	fs.BoolVar(&f.verbose, "verbose", false, "log requests and the cache to standard error")
	cmd.MarkFlagsMutuallyExclusive("collateral", "pcs")
	cmd.MarkFlagsMutuallyExclusive("collateral", "update")
	cmd.MarkFlagsMutuallyExclusive("collateral", "evaluation")
	cmd.MarkFlagsMutuallyExclusive("update", "evaluation")
	cmd.MarkFlagsMutuallyExclusive("cache-dir", "no-cache")
}

// registerQuote adds the flags of verbs that read a quote.
func (f *collateralFlags) registerQuote(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.pckChain, "pck-chain", "", "PEM `file` with the platform's PCK certificate chain, for quotes that carry none")
	cmd.Flags().BoolVar(&f.padding, "allow-zero-padding", false, "accept zero bytes after the quote")
}

// usage is the fault for flags that make no sense.
func usage(format string, args ...any) *fault.Fault {
	return fault.New(fault.ExitInternal, "usage", "see --help", format, args...)
}

// now returns the time to judge at.
func (f *collateralFlags) now() (time.Time, error) { return parseAt(f.at) }

// parseAt reads the value of --at; empty is the present.
func parseAt(at string) (time.Time, error) {
	if at == "" {
		return time.Now().UTC(), nil
	}
	if secs, err := strconv.ParseInt(at, 10, 64); err == nil {
		return time.Unix(secs, 0).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339, at)
	if err != nil {
		return time.Time{}, usage("reading --at %q: neither RFC 3339 nor Unix seconds", at)
	}
	return t.UTC(), nil
}

// trusted returns the roots to trust; nil stands for Intel's.
func (f *collateralFlags) trusted() (*pck.Roots, error) {
	if f.roots == "" {
		return nil, nil
	}
	b, err := readInput("--roots", f.roots, pck.MaxChain)
	if err != nil {
		return nil, err
	}
	roots, err := pck.ParseRoots(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "dcap.roots.parse", "give root certificates in PEM", "reading --roots: %w", err)
	}
	return roots, nil
}

// client returns a client of the service that the flags name, whose time
// stands still at now.
func (f *collateralFlags) client(stderr io.Writer, now time.Time, roots *pck.Roots, grace time.Duration, offline bool) (*pcs.Client, error) {
	dir := f.cacheDir
	if f.noCache {
		dir = ""
	} else if dir == "" {
		// Without a home directory there is no cache either.
		if base, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(base, "cocoon", "collateral")
		}
	}
	var log *slog.Logger
	if f.verbose {
		log = slog.New(slog.NewTextHandler(stderr, nil))
	}
	return pcs.New(pcs.Options{
		BaseURL: f.pcs, RootCRLURL: f.rootCRL, Roots: roots, CacheDir: dir, Grace: grace, Offline: offline,
		Clock: func() time.Time { return now }, Logger: log,
	})
}

// request fills a request with the evaluation that the flags ask for.
func (f *collateralFlags) request(req pcs.Request) (pcs.Request, error) {
	switch f.update {
	case "", string(pcs.Standard), string(pcs.Early):
		req.Channel = pcs.Channel(f.update)
	default:
		return req, usage("reading --update %q: neither early nor standard", f.update)
	}
	req.Evaluation = f.evaluation
	return req, nil
}

// readBundle reads collateral from the file or directory that --collateral
// names.
func (f *collateralFlags) readBundle() (*collateral.Raw, error) { return bundle.Read(f.collateral) }

// fetch asks the service for the collateral that a request names.
func (f *collateralFlags) fetch(ctx context.Context, stderr io.Writer, now time.Time, roots *pck.Roots, grace time.Duration, offline bool, req pcs.Request) (*collateral.Set, error) {
	c, err := f.client(stderr, now, roots, grace, offline)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Set(ctx, req)
}

// readInput reads a file that a flag names, with a limit.
func readInput(flag, path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "file.unreadable", "check the path", "reading %s: %w", flag, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "file.unreadable", "check the path", "reading %s: %w", flag, err)
	}
	if len(b) > limit {
		return nil, fault.New(fault.ExitParse, "file.too_large", "check that it is the right file",
			"reading %s: %s has more than %d bytes", flag, path, limit)
	}
	return b, nil
}

// readManifest reads a manifest, and the proof of a log that lies beside it, which
// a policy may want.
func readManifest(path string, want *policy.Policy) (p manifest.Published, err error) {
	if p.Envelope, err = readInput("--manifest", path, manifest.MaxEnvelope); err != nil {
		return p, err
	}
	if p.Inclusion, err = manifestfile.Inclusion(path, want != nil && want.Manifests.Log != nil); err != nil {
		return p, fault.New(fault.ExitInternal, "file.unreadable", "check the file beside the manifest", "%w", err)
	}
	return p, nil
}

// readQuote reads a quote: raw bytes, or text in hex or base64.
func readQuote(path string) ([]byte, error) { return readEncoded("--quote", path, quote.MaxSize) }

// readEncoded reads a quote or report of at most limit bytes: raw, or as text
// in hex or base64. The two cannot be confused: what is raw starts with its
// version, 2 to 5 in two bytes or more, which no text does.
func readEncoded(flag, path string, limit int) ([]byte, error) {
	b, err := readInput(flag, path, 3*limit)
	if err != nil {
		return nil, err
	}
	if len(b) > 1 && b[0] < ' ' && b[1] == 0 {
		return b, nil
	}
	text := bytes.Join(bytes.Fields(b), nil)
	text = bytes.TrimPrefix(text, []byte("0x"))
	if out, err := hex.DecodeString(string(text)); err == nil && len(out) > 0 {
		return out, nil
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		if out, err := enc.DecodeString(string(text)); err == nil && len(out) > 0 {
			return out, nil
		}
	}
	return b, nil // not text either: the parser says what is wrong
}
