package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/hostd/fetch"
	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
)

// newImageCmd has the verbs for what is booted.
func newImageCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "bring images and packs to this machine", Args: cobra.NoArgs}
	cmd.AddCommand(newImageFetchCmd())
	return cmd
}

// imageFetchFlags are the flags of "cocoon image fetch".
type imageFetchFlags struct {
	trustFlags
	sha256  string
	size    int64
	out     string
	release bool
	json    bool
}

func newImageFetchCmd() *cobra.Command {
	f := &imageFetchFlags{}
	cmd := &cobra.Command{
		Use:   "fetch URL --out PATH (--sha256 HASH | --release --trust FILE)",
		Short: "bring a file by its hash, or a release by its manifest",
		Long: `Brings one file whose hash you know, or with --release the image, packs and firmware
of a release: URL is then the directory that "cocoon release" wrote, and its
manifest must be signed by the keys that you trust.

Interrupt it whenever you like: what has arrived is kept beside the file and
gone on with the next time. A file gets its name only when its hash is right; one
with another hash is removed.

Exit codes: 0 the files are there; 2 another hash or size; 3 network; 4 the
manifest is not signed by enough of your keys; 5 not a manifest, or not a hash; 6
no room on the disk.`,
		Example: `  cocoon image fetch https://models.example/chat.img --sha256 4fdd3d…0a5e11 --out packs/chat.img
  cocoon image fetch https://cocoon.example/release-7 --release --trust keys.json --out /var/lib/cocoon/release-7`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runImageFetch(cmd, args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.sha256, "sha256", "", "the file's SHA-256, `hex`")
	fs.Int64Var(&f.size, "size", 0, "the file's size in `bytes`, where you know it")
	fs.StringVar(&f.out, "out", "", "the file, or with --release the directory, to write, a `path`")
	fs.BoolVar(&f.release, "release", false, "bring a whole release by its signed manifest")
	fs.BoolVar(&f.json, "json", false, "write progress as JSON, one object a line")
	f.register(cmd)
	need(cmd, "out")
	return cmd
}

func runImageFetch(cmd *cobra.Command, url string, f *imageFetchFlags) error {
	if f.release == (f.sha256 != "") {
		return usage("give either --sha256 or --release")
	}
	out := cmd.ErrOrStderr()
	if f.json {
		out = cmd.OutOrStdout()
	}
	bar := newProgressBar(out, f.json)
	defer bar.end()
	if f.sha256 != "" {
		return fetch.File(cmd.Context(), fetch.Options{URL: url, SHA256: f.sha256, Size: f.size, Path: f.out, Report: bar.show})
	}
	t, err := f.read()
	if err != nil {
		return err
	}
	if t == nil {
		return usage("give the keys that you trust with --trust or --signer")
	}
	base := strings.TrimSuffix(url, "/")
	env, err := getDocument(cmd.Context(), base+"/manifest.json", manifest.MaxEnvelope)
	if err != nil {
		return err
	}
	v, err := manifest.Open(env, manifest.Trust{Keys: t.Keys, Threshold: t.Threshold})
	if err != nil {
		return manifestFault(err)
	}
	for _, a := range v.Manifest.Artifacts {
		name, ok := release.Path(a)
		if !ok || !filepath.IsLocal(filepath.FromSlash(name)) {
			continue // a tool that is named only
		}
		if err := fetch.File(cmd.Context(), fetch.Options{URL: base + "/" + name, SHA256: a.SHA256.String(), Size: a.Size, Path: filepath.Join(f.out, filepath.FromSlash(name)), Report: bar.show}); err != nil {
			return err
		}
	}
	// Last: where it is, all of it is.
	path := filepath.Join(f.out, "manifest.json")
	if err := durable.Write(path, env, 0o644); err != nil {
		return fmt.Errorf("writing manifest: %w", err)
	}
	if !f.json {
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %d, manifest %s, signed by %d trusted key(s): %s\n", v.Manifest.Image.Name, v.Manifest.Image.Version, v.SHA256, len(v.Signers), f.out)
	}
	return err
}

// getDocument reads a small document.
func getDocument(ctx context.Context, url string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "fetch.url", "give the address as https://HOST/PATH", "reading the address: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "fetch.network", "run it again when the network is back", "asking for the manifest: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.ExitNetwork, "fetch.status", "see whether the address is that of a release", "asking for %s: HTTP status %d", url, resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "fetch.network", "run it again when the network is back", "reading the manifest: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, fault.New(fault.ExitParse, "manifest.parse", "see whether the address is that of a release", "reading the manifest: more than %d bytes", limit)
	}
	return b, nil
}
