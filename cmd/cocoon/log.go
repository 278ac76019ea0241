package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/log/witness"
	"cocoon/measurements/manifest"
)

func newLogCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "log",
		Short: "keep a transparency log of manifests",
		Long: `A log of manifests in a directory: the files of C2SP tlog-tiles, which any web
server can serve as they are. An entry is the identity of a manifest, the
SHA-256 of its DSSE payload.`,
		PersistentPreRun: func(*cobra.Command, []string) { quietStorage() },
	}
	cmd.AddCommand(newLogInitCmd(), newLogAppendCmd(), newLogShowCmd(), newLogFsckCmd(), newLogProveCmd(), newLogVerifyCmd(), newLogWitnessCmd())
	return cmd
}

// quietStorage keeps the log's storage library, which writes progress to
// standard error, from doing so. It has no other means than its own globals.
func quietStorage() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

// logFault gives the errors of a log their codes.
func logFault(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tiles.ErrExists):
		return fault.New(fault.ExitInternal, "log.exists", "give another directory", "%w", err)
	case errors.Is(err, tiles.ErrNotLogged):
		return fault.New(fault.ExitRefused, "log.not_logged", "append the manifest first", "%w", err)
	case errors.Is(err, witness.ErrNotCosigned):
		return fault.New(fault.ExitRefused, "log.not_cosigned", "ask for a later proof; a log that never shows one may show others another history", "%w", err)
	case errors.Is(err, log.ErrForm):
		return fault.New(fault.ExitParse, "log.parse", "check that it is a log and not damaged: cocoon log fsck", "%w", err)
	case errors.Is(err, log.ErrSignature), errors.Is(err, log.ErrProof):
		return fault.New(fault.ExitRefused, "log.proof", "do not rely on the log; keep what you have as evidence", "%w", err)
	case errors.Is(err, os.ErrNotExist):
		return fault.New(fault.ExitInternal, "log.missing", "make one with cocoon log init", "%w", err)
	}
	return err
}

func newLogInitCmd() *cobra.Command {
	var origin, key string
	cmd := &cobra.Command{
		Use:     "init DIR --origin NAME --key FILE",
		Short:   "make an empty log, and print its public key",
		Example: `  cocoon log init log --origin log.example.org/cocoon --key log.key`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := keyfile.ReadEd25519(key)
			if err != nil {
				return fault.New(fault.ExitInternal, "log.key", "make one with cocoon manifest key", "%w", err)
			}
			l, err := tiles.Init(cmd.Context(), args[0], origin, k)
			if err != nil {
				return logFault(err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), l.Key())
			return err
		},
	}
	cmd.Flags().StringVar(&origin, "origin", "", "`name` of the log: host/path where it is published, without a scheme")
	cmd.Flags().StringVar(&key, "key", "", "Ed25519 key `file` that signs checkpoints")
	need(cmd, "origin")
	need(cmd, "key")
	return cmd
}

// manifestArg reads the manifest that an argument names: a file, or a hash.
func manifestArg(s string) (digest.SHA256, error) {
	if d, err := digest.Parse256(s); err == nil {
		return d, nil
	}
	env, err := readInput("manifest", s, manifest.MaxEnvelope)
	if err != nil {
		return digest.SHA256{}, err
	}
	v, err := manifest.Read(env, nil)
	if err != nil {
		return digest.SHA256{}, manifestFault(err)
	}
	return v.SHA256, nil
}

func newLogAppendCmd() *cobra.Command {
	var key, out string
	cmd := &cobra.Command{
		Use:   "append DIR MANIFEST --key FILE",
		Short: "put a manifest into the log and write the proof of it",
		Long: `Appends the manifest, a file or a hash, unless it is in the log already, waits
until a signed checkpoint covers it, and writes the proof (C2SP tlog-proof).`,
		Example: `  cocoon log append log manifest.json --key log.key --out inclusion`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := keyfile.ReadEd25519(key)
			if err != nil {
				return fault.New(fault.ExitInternal, "log.key", "make one with cocoon manifest key", "%w", err)
			}
			d, err := manifestArg(args[1])
			if err != nil {
				return err
			}
			l, err := tiles.Open(args[0])
			if err != nil {
				return logFault(err)
			}
			i, err := l.Append(cmd.Context(), k, d)
			if err != nil {
				return logFault(err)
			}
			if out != "" {
				p, err := l.ProveInclusion(cmd.Context(), d)
				if err != nil {
					return logFault(err)
				}
				if err := writeOut(out, p.Text()); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "manifest %s is entry %d of %s\n", d, i, l.Key().Origin)
			return err
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "the log's Ed25519 key `file`")
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the proof of inclusion to this `file`")
	need(cmd, "key")
	return cmd
}

func writeOut(path string, b []byte) error {
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing %s: %w", path, err)
	}
	return nil
}

type tlogReport struct {
	Origin  string          `json:"origin"`
	Key     log.Key         `json:"key"`
	Size    uint64          `json:"size"`
	Root    digest.SHA256   `json:"root"`
	Entries []digest.SHA256 `json:"entries"`
}

func newLogShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show DIR",
		Short: "show a log's signed checkpoint and its entries",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := tiles.Open(args[0])
			if err != nil {
				return logFault(err)
			}
			c, err := l.Checkpoint(cmd.Context())
			if err != nil {
				return logFault(err)
			}
			r := tlogReport{Origin: c.Origin, Key: l.Key(), Size: c.Size, Root: c.Root}
			if r.Entries, err = l.Entries(cmd.Context()); err != nil {
				return logFault(err)
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), r)
			}
			p := &printer{w: cmd.OutOrStdout()}
			p.f("log     %s, %d entries", r.Origin, r.Size)
			p.f("root    %s", r.Root)
			p.f("key     %s", r.Key)
			for i, e := range r.Entries {
				p.f("%7d %s", i, e)
			}
			return p.err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	return cmd
}

func newLogFsckCmd() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "fsck DIR|URL",
		Short: "recompute the whole log and compare every file with it",
		Long: `Recomputes the tree from the entries, compares every tile and the signed root
with it, and reads each entry. A log at an address, such as a verifier's, is held
against the --log-key. Exit codes: 0 good; 2 not; 3 not reached; 5 not a log.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := openLog(cmd.Context(), args[0], key)
			if err != nil {
				return logFault(err)
			}
			if err := l.Fsck(cmd.Context()); err != nil {
				return fault.New(fault.ExitRefused, "log.damaged", "restore the log's files from a copy; its key must not sign anything before", "%w", err)
			}
			c, err := l.Checkpoint(cmd.Context())
			if err != nil {
				return logFault(err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "good: %d entries under root %s\n", c.Size, c.Root)
			return err
		},
	}
	cmd.Flags().StringVar(&key, "log-key", "", "verifier `key` of a log at an address, from elsewhere than the log")
	return cmd
}

func newLogProveCmd() *cobra.Command {
	var earlier, out, key string
	cmd := &cobra.Command{
		Use:   "prove DIR|URL [MANIFEST]",
		Short: "prove that a manifest is in the log, or that it still has all it had",
		Long: `With a manifest, a file or a hash: the proof of its inclusion under the latest
checkpoint. With --earlier: the proof that the log has every entry of an earlier
checkpoint, a signed note in a file. Both are checked before they are written.`,
		Example: `  cocoon log prove log manifest.json --out inclusion
  cocoon log prove log --earlier checkpoint.old --out consistency`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 2) == (earlier != "") {
				return usage("give a manifest or --earlier")
			}
			l, err := openLog(cmd.Context(), args[0], key)
			if err != nil {
				return logFault(err)
			}
			var text []byte
			if earlier != "" {
				note, err := readInput("--earlier", earlier, log.MaxCheckpoint)
				if err != nil {
					return err
				}
				p, err := l.ProveConsistency(cmd.Context(), note)
				if err != nil {
					return logFault(err)
				}
				text = p.Text()
			} else {
				d, err := manifestArg(args[1])
				if err != nil {
					return err
				}
				p, err := l.ProveInclusion(cmd.Context(), d)
				if err != nil {
					return logFault(err)
				}
				text = p.Text()
			}
			if out != "" {
				return writeOut(out, text)
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
	}
	cmd.Flags().StringVar(&key, "log-key", "", "verifier `key` of a log at an address, from elsewhere than the log")
	cmd.Flags().StringVar(&earlier, "earlier", "", "`file` with a checkpoint that was kept")
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the proof to this `file`")
	return cmd
}

func newLogVerifyCmd() *cobra.Command {
	var key string
	var witnesses []string
	cmd := &cobra.Command{
		Use:   "verify PROOF [MANIFEST] --log-key KEY",
		Short: "verify a proof that a log's prove wrote",
		Long: `Verifies a proof offline: that a manifest, a file or a hash, is in the key's log,
or, without a manifest, that a later state of the log has every entry of an
earlier one. With --witness its (later) checkpoint must have their cosignatures,
too. Exit codes: 0 verified; 1 usage; 2 refused; 5 not a proof.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := log.ParseKey(key)
			if err != nil {
				return logFault(err)
			}
			doc, err := readInput("proof", args[0], log.MaxProof)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				p, err := log.ParseConsistency(doc)
				if err != nil {
					return logFault(err)
				}
				from, to, err := p.Verify(k)
				if err == nil {
					err = cosigned(to.Raw, witnesses)
				}
				if err != nil {
					return logFault(err)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "verified: %d entries have all %d\n", to.Size, from.Size)
				return err
			}
			d, err := manifestArg(args[1])
			if err != nil {
				return err
			}
			p, err := log.ParseInclusion(doc)
			if err != nil {
				return logFault(err)
			}
			c, err := p.Verify(d, k)
			if err == nil {
				err = cosigned(c.Raw, witnesses)
			}
			if err != nil {
				return logFault(err)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "verified: manifest %s is entry %d of %d\n", d, p.Index, c.Size)
			return err
		},
	}
	cmd.Flags().StringVar(&key, "log-key", "", "the log's verifier `key`, from elsewhere than the proof")
	cmd.Flags().StringArrayVar(&witnesses, "witness", nil, "a witness's verifier `key`; may be repeated: all of them must have cosigned")
	need(cmd, "log-key")
	return cmd
}

// cosigned checks that every witness has cosigned a checkpoint, a signed note.
func cosigned(checkpoint []byte, witnesses []string) error {
	var errs []error
	for _, key := range witnesses {
		_, err := witness.Check(checkpoint, key)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
