package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/services"
)

// newGPUCmd is the parent of what concerns NVIDIA GPUs and what NVIDIA
// publishes to judge them by.
func newGPUCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "gpu", Short: "NVIDIA GPUs: prepare them for a VM, and what is published to judge them by", Args: cobra.NoArgs}
	cmd.AddCommand(newGPURIMCmd(), newGPUListCmd(), newGPUPrepareCmd(), newGPURestoreCmd(), newGPUToolCmd())
	return cmd
}

// rimFlags say where reference measurements come from and whom to trust for
// them.
type rimFlags struct {
	service  string
	bundle   string
	cacheDir string
	noCache  bool
	offline  bool
	roots    string
	at       string
	verbose  bool
}

func (f *rimFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.service, "rim-service", "", "ask the RIM service or a cache at this base `URL` (default "+services.NVIDIARIM+")")
	fs.StringVar(&f.bundle, "bundle", "", "take what is in this bundle `file` first")
	fs.StringVar(&f.cacheDir, "cache-dir", "", "keep answers in this `directory` (default: cocoon/rim in the user's cache directory)")
	fs.BoolVar(&f.noCache, "no-cache", false, "keep answers nowhere")
	fs.BoolVar(&f.offline, "offline", false, "make no request: use cache and bundle only")
	fs.BoolVar(&f.verbose, "verbose", false, "log requests and the cache to standard error")
	f.registerTrust(cmd)
	cmd.MarkFlagsMutuallyExclusive("cache-dir", "no-cache")
}

// registerTrust adds the flags of verbs that only read documents.
func (f *rimFlags) registerTrust(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.roots, "rim-roots", "", "trust the root certificates in this PEM `file` instead of NVIDIA's")
	fs.StringVar(&f.at, "at", "", "judge as of this `time`, RFC 3339 or Unix seconds (default now)")
}

func (f *rimFlags) now() (time.Time, error) { return (&collateralFlags{at: f.at}).now() }

// trusted returns the roots to trust; nil stands for NVIDIA's.
func (f *rimFlags) trusted() (*rim.Roots, error) {
	if f.roots == "" {
		return nil, nil
	}
	b, err := readInput("--rim-roots", f.roots, 64<<10)
	if err != nil {
		return nil, err
	}
	r, err := rim.ParseRoots(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "rim.roots.parse", "give root certificates in PEM", "reading --rim-roots: %w", err)
	}
	return r, nil
}

// client returns a client of the services whose time stands still at now.
func (f *rimFlags) client(stderr io.Writer, now time.Time) (*services.Client, error) {
	roots, err := f.trusted()
	if err != nil {
		return nil, err
	}
	o := services.Options{RIMURL: f.service, Roots: roots, CacheDir: f.cacheDir, Offline: f.offline, Clock: func() time.Time { return now }}
	if f.noCache {
		o.CacheDir = ""
	} else if o.CacheDir == "" {
		// Without a home directory there is no cache either.
		if base, err := os.UserCacheDir(); err == nil {
			o.CacheDir = filepath.Join(base, "cocoon", "rim")
		}
	}
	if f.bundle != "" {
		b, err := readInput("--bundle", f.bundle, services.MaxBundle)
		if err != nil {
			return nil, err
		}
		if o.Bundle, err = services.ParseBundle(b); err != nil {
			return nil, err
		}
	}
	if f.verbose {
		o.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	}
	return services.New(o)
}

// exportBundle writes what the services answer for these ids to a bundle file.
func exportBundle(ctx context.Context, c *services.Client, path string, ids []string) error {
	b, err := c.Export(ctx, ids, nil)
	if err != nil {
		return err
	}
	raw, err := b.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		return fault.New(fault.ExitInternal, "file.unwritable", "check the path and the space left", "writing --export: %w", err)
	}
	return nil
}
