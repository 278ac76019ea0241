package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/fetch"
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

// Modes of --progress.
const (
	progressAuto = "auto"
	progressJSON = "json"
	progressNone = "none"
)

// progressEvery is how often a step of work is shown.
const progressEvery = 200 * time.Millisecond

// newProgress returns what is to be told how many bytes of how many are done;
// nil, as package modelpack has it, where nobody wants to know. It is called
// from one goroutine.
func newProgress(cmd *cobra.Command, name, phase, mode string) (func(done, total uint64), error) {
	switch mode {
	case progressAuto, progressJSON:
	case progressNone:
		return nil, nil
	default:
		return nil, usage("reading --progress %q: want auto, json or none", mode)
	}
	bar := newProgressBar(cmd.ErrOrStderr(), mode == progressJSON)
	var shown time.Time
	return func(done, total uint64) {
		p := fetch.Progress{Name: name, Phase: phase, Bytes: int64(done), Total: int64(total)}
		if done == total {
			p.Phase = fetch.Done
		} else if time.Since(shown) < progressEvery {
			return
		}
		shown = time.Now()
		bar.show(p)
	}, nil
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
