package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/bundle"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/pck"
)

// newCollateralCmd is the parent of what handles Intel's collateral.
func newCollateralCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "collateral",
		Short: "fetch, keep and show what Intel publishes to judge quotes by",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newCollateralFetchCmd(), newCollateralExportCmd(), newCollateralShowCmd())
	return cmd
}

// platformFlags say which platform collateral is for.
type platformFlags struct {
	collateralFlags
	quote string
	tee   string
	fmspc string
	ca    string
	json  bool
}

func (f *platformFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.quote, "quote", "", "for the platform that made the quote in this `file`")
	fs.StringVar(&f.tee, "tee", "tdx", "for `tdx` or sgx, with --fmspc")
	fs.StringVar(&f.fmspc, "fmspc", "", "for the platforms with this FMSPC, 6 bytes of `hex`")
	fs.StringVar(&f.ca, "ca", "platform", "for PCK certificates of the `platform` or processor CA, with --fmspc")
	fs.BoolVar(&f.json, "json", false, "write the summary as JSON")
	f.collateralFlags.register(cmd)
	f.registerQuote(cmd)
	cmd.MarkFlagsMutuallyExclusive("quote", "fmspc")
}

// request says which collateral the flags ask for.
func (f *platformFlags) request(roots *pck.Roots) (pcs.Request, error) {
	var req pcs.Request
	switch {
	case f.quote != "":
		raw, err := readQuote(f.quote)
		if err != nil {
			return req, err
		}
		var chain []byte
		if f.pckChain != "" {
			if chain, err = readInput("--pck-chain", f.pckChain, pck.MaxChain); err != nil {
				return req, err
			}
		}
		req, err = pcs.RequestOf(raw, chain, f.padding, roots)
		if errors.Is(err, pcs.ErrNoChain) {
			return req, usage("%w: give it with --pck-chain, or name the platform with --fmspc", err)
		}
		if err != nil && len(fault.All(err)) == 0 {
			err = fault.New(fault.ExitRefused, "dcap.pck.chain", "use a platform whose PCK certificate Intel issued", "reading --quote: %w", err)
		}
		if err != nil {
			return req, err
		}
	case f.fmspc != "":
		b, err := hex.DecodeString(f.fmspc)
		if err != nil || len(b) != 6 {
			return req, usage("reading --fmspc %q: not 6 bytes of hex", f.fmspc)
		}
		req = pcs.Request{TEE: pcs.TEE(f.tee), FMSPC: [6]byte(b), CA: pck.CA(f.ca)}
	default:
		return req, usage("name a platform with --quote or --fmspc")
	}
	return f.collateralFlags.request(req)
}

// set gets the collateral that the flags name: from a file, the cache or the
// service.
func (f *platformFlags) set(cmd *cobra.Command, offline bool) (*collateral.Set, time.Time, error) {
	now, err := f.now()
	if err != nil {
		return nil, now, err
	}
	roots, err := f.trusted()
	if err != nil {
		return nil, now, err
	}
	if f.collateral != "" {
		raw, err := f.readBundle()
		if err != nil {
			return nil, now, err
		}
		set, err := collateral.Open(raw, roots)
		return set, now, err
	}
	req, err := f.request(roots)
	if err != nil {
		return nil, now, err
	}
	set, err := f.fetch(cmd.Context(), cmd.ErrOrStderr(), now, roots, 0, offline, req)
	return set, now, err
}

func newCollateralFetchCmd() *cobra.Command {
	f := &platformFlags{}
	cmd := &cobra.Command{
		Use:   "fetch (--quote FILE | --fmspc HEX) [--pcs URL]",
		Short: "fetch collateral into the cache",
		Long: `Fetches the collateral for a platform from Intel's PCS or from a PCCS, verifies
all of it, and keeps it in the cache. What is in the cache and valid is not
fetched again.`,
		Example: `  cocoon collateral fetch --quote quote.bin
  cocoon collateral fetch --fmspc 00806f050000 --update early --pcs https://localhost:8081`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, now, err := f.set(cmd, false)
			if err != nil {
				return err
			}
			return writeCollateral(cmd.OutOrStdout(), set, now, f.json)
		},
	}
	f.register(cmd)
	return cmd
}

func newCollateralExportCmd() *cobra.Command {
	f := &platformFlags{}
	var out, format string
	cmd := &cobra.Command{
		Use:   "export (--quote FILE | --fmspc HEX | --collateral FILE|DIR) --out PATH",
		Short: "write collateral to a file or a directory, for machines without a network",
		Long: `Writes collateral from the cache, where "cocoon collateral fetch" put it, or from
another bundle: as one JSON file or as a directory with a file for each part.
It makes no request.`,
		Example: `  cocoon collateral export --quote quote.bin --out collateral.json
  cocoon collateral export --collateral collateral.json --out parts --format dir`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "json" && format != "dir" {
				return usage("reading --format %q: neither json nor dir", format)
			}
			set, now, err := f.set(cmd, true)
			if err != nil {
				return err
			}
			write := bundle.WriteFile
			if format == "dir" {
				write = bundle.WriteDir
			}
			if err := write(out, set.Raw()); err != nil {
				return fault.New(fault.ExitInternal, "file.unwritable", "check the path and the space left", "writing --out: %w", err)
			}
			return writeCollateral(cmd.OutOrStdout(), set, now, f.json)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&out, "out", "", "the file or directory to write, a `path`")
	cmd.Flags().StringVar(&format, "format", "json", "write one `json` file or a dir of parts")
	_ = cmd.MarkFlagRequired("out")
	return cmd
}

func newCollateralShowCmd() *cobra.Command {
	f := &platformFlags{}
	cmd := &cobra.Command{
		Use:   "show (--collateral FILE|DIR | --quote FILE | --fmspc HEX)",
		Short: "show what collateral says and how long it is valid",
		Long: `Shows collateral from a bundle or from the cache, after verifying who signed it.
Expired collateral is shown, and refused (exit 2).`,
		Example: `  cocoon collateral show --collateral collateral.json --json`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			set, now, err := f.set(cmd, true)
			if err != nil {
				return err
			}
			if err := writeCollateral(cmd.OutOrStdout(), set, now, f.json); err != nil {
				return err
			}
			return set.CheckTime(now, 0)
		},
	}
	f.register(cmd)
	return cmd
}

// collateralReport is what the collateral verbs write;
// docs/verify-quotes.md describes it.
type collateralReport struct {
	Valid      bool                 `json:"valid"` // every part, at Time
	Time       time.Time            `json:"time"`
	TEE        string               `json:"tee"`
	FMSPC      string               `json:"fmspc"`
	CA         pck.CA               `json:"ca"`
	Evaluation int                  `json:"evaluation"`
	SHA256     string               `json:"sha256"`
	NextUpdate time.Time            `json:"next_update"` // the earliest
	Parts      []collateralPart     `json:"parts"`
	Levels     []collateralTCBLevel `json:"levels"`
	Revoked    int                  `json:"revoked_pck_certificates"`
}

type collateralPart struct {
	collateral.Part
	Days int `json:"days"` // whole days left; negative: expired
}

type collateralTCBLevel struct {
	Date       time.Time `json:"date"`
	Status     string    `json:"status"`
	Advisories []string  `json:"advisories,omitempty"`
}

func newCollateralReport(set *collateral.Set, now time.Time) *collateralReport {
	info, hash := set.TCBInfo(), set.Hash()
	rep := &collateralReport{
		Valid: set.ValidAt(now, 0), Time: now, TEE: strings.ToLower(info.ID), FMSPC: hex.EncodeToString(info.FMSPC[:]), CA: set.CA(),
		Evaluation: info.Evaluation, SHA256: hex.EncodeToString(hash[:]), NextUpdate: set.NextUpdate(), Revoked: set.PCKCRL().Len(),
	}
	for _, p := range set.Parts() {
		rep.Parts = append(rep.Parts, collateralPart{p, int(math.Floor(p.NextUpdate.Sub(now).Hours() / 24))})
	}
	for _, l := range info.Levels {
		rep.Levels = append(rep.Levels, collateralTCBLevel{Date: l.Date, Status: string(l.Status), Advisories: l.Advisories})
	}
	return rep
}

// writeCollateral writes what a set holds.
func writeCollateral(w io.Writer, set *collateral.Set, now time.Time, asJSON bool) error {
	rep := newCollateralReport(set, now)
	if asJSON {
		return writeJSON(w, rep)
	}
	var b strings.Builder
	state := "valid"
	if !rep.Valid {
		state = "not valid"
	}
	fmt.Fprintf(&b, "%s at %s: %s collateral, FMSPC %s, %s CA, evaluation %d\n", state, now.UTC().Format(time.RFC3339),
		strings.ToUpper(rep.TEE), rep.FMSPC, rep.CA, rep.Evaluation)
	for _, p := range rep.Parts {
		fmt.Fprintf(&b, "  %-26s %s to %s, %s\n", p.Name, p.IssueDate.UTC().Format(time.RFC3339), p.NextUpdate.UTC().Format(time.RFC3339), daysLeft(p.Days))
	}
	for _, l := range rep.Levels {
		fmt.Fprintf(&b, "  level %s %s\n", l.Date.UTC().Format(time.DateOnly), plain(l.Status))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

// daysLeft says how long something is valid.
func daysLeft(days int) string {
	switch {
	case days < 0:
		return "expired"
	case days == 1:
		return "1 day left"
	default:
		return fmt.Sprintf("%d days left", days)
	}
}
