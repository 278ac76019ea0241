package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/modelpack"
)

func newModelCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "model",
		Short: "make and check model packs, and release their keys",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newModelPackCmd(), newModelVerifyCmd(), newModelShowCmd(), newModelReleaseCmd(), newModelReleasesCmd())
	return cmd
}

// progress shows how far long work is: a line that is written anew on a
// terminal, one line for each tenth elsewhere, one JSON object a line with
// --progress json.
type progress struct {
	what string
	mode string
	out  io.Writer

	mu    sync.Mutex
	begin time.Time
	shown time.Time
	tenth uint64
}

// Modes of --progress.
const (
	progressAuto = "auto"
	progressJSON = "json"
	progressNone = "none"
)

func newProgress(cmd *cobra.Command, what, mode string) (*progress, error) {
	switch mode {
	case progressAuto, progressJSON, progressNone:
	default:
		return nil, usage("reading --progress %q: want auto, json or none", mode)
	}
	return &progress{what: what, mode: mode, out: cmd.ErrOrStderr(), begin: time.Now()}, nil
}

// step reports that done of total bytes are done.
func (p *progress) step(done, total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == progressNone || total == 0 {
		return
	}
	now := time.Now()
	f, file := p.out.(*os.File)
	terminal := p.mode == progressAuto && file && term.IsTerminal(int(f.Fd()))
	tenth := done * 10 / total
	switch {
	case terminal && done < total && now.Sub(p.shown) < 200*time.Millisecond:
		return
	case !terminal && tenth == p.tenth:
		return
	}
	p.shown, p.tenth = now, tenth
	rate := float64(done) / max(now.Sub(p.begin).Seconds(), 1e-3)
	switch {
	case p.mode == progressJSON:
		// What a program reads; one that does not read is not worth a failure.
		_ = json.NewEncoder(p.out).Encode(map[string]any{"progress": p.what, "done_bytes": done, "total_bytes": total, "bytes_per_second": uint64(rate)})
	case terminal:
		fmt.Fprintf(p.out, "\r%s: %3d %%  %.0f MB/s ", p.what, done*100/total, rate/1e6)
		if done == total {
			fmt.Fprintln(p.out)
		}
	default:
		fmt.Fprintf(p.out, "%s: %d %% of %.1f MB, %.0f MB/s\n", p.what, done*100/total, float64(total)/1e6, rate/1e6)
	}
}

// packReport is what every verb writes with --json.
type packReport struct {
	ID string `json:"id"`
	*modelpack.Description
	File string `json:"file,omitempty"`
	Size int64  `json:"size,omitempty"` // of the file
	// Config is the member model of a guest's config.json.
	Config modelConfig `json:"config"`
}

type modelConfig struct {
	Name   string           `json:"name"`
	Verity modelpack.Verity `json:"verity"`
	// KeySHA256 has the guest ask for the key of an encrypted pack.
	KeySHA256 *digest.SHA256 `json:"key_sha256,omitempty"`
}

func newPackReport(d *modelpack.Description, path string) *packReport {
	r := &packReport{ID: d.ID(), Description: d, File: path, Config: modelConfig{d.Name, d.Verity, d.KeySHA256}}
	if st, err := os.Stat(path); err == nil && path != "" {
		r.Size = st.Size()
	}
	return r
}

func (r *packReport) write(w io.Writer) error {
	fmt.Fprintf(w, "%s\n", r.ID)
	if r.File != "" {
		fmt.Fprintf(w, "  file     %s, %d bytes\n", plain(r.File), r.Size)
	}
	files := fmt.Sprintf("%d files", len(r.Files))
	if r.KeySHA256 != nil {
		files = "encrypted, key " + r.KeySHA256.String()
	}
	fmt.Fprintf(w, "  content  %d bytes, %s\n", r.Bytes, files)
	for _, f := range r.Files {
		fmt.Fprintf(w, "    %12d  %s\n", f.Size, plain(f.Path))
	}
	config, err := json.Marshal(r.Config)
	if err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	_, err = fmt.Fprintf(w, "  config   \"model\":%s\n", config)
	return err
}

// output writes the report as asked.
func (r *packReport) output(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(w, r)
	}
	return r.write(w)
}

// readModelKey reads a key file, for the pack of this ID where that is known.
func readModelKey(path, id string) (*modelpack.Key, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "file.unreadable", "check the path", "reading the model's key: %w", err)
	}
	k, pack, err := modelpack.ParseKey(b)
	if err != nil {
		return nil, err
	}
	if pack != id {
		return nil, fault.Mismatch(fault.ExitRefused, modelpack.CodeKey, "the pack that the key is for", id, pack, "give the key of this pack")
	}
	return &k, nil
}
