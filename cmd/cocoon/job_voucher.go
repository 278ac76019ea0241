package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// newJobVoucherCmd fetches what "job redeem" sends.
func newJobVoucherCmd() *cobra.Command {
	var f workerFlags
	var out string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "voucher ADDRESS --gateway ADDR --policy FILE --manifest FILE",
		Short: "fetch a job's last voucher from the worker, to redeem it",
		Long: `Fetches the last voucher that the client of a job has signed from the worker
that served it, over a connection that ends in the verified enclave. Vouchers
die with the worker's boot: fetch and redeem them before the machine stops.

Exit codes: 0 fetched; 2 refused, or there is no voucher; 3 the worker cannot be
reached; 4 the policy refuses the worker; 5 the answer is not a voucher.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := addressArg(args)
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			doc, err := f.voucher(ctx, addr)
			if err != nil {
				return err
			}
			if out == "" {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", doc)
				return err
			}
			if err := os.WriteFile(out, append(doc, '\n'), 0o644); err != nil {
				return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing voucher: %w", err)
			}
			return nil
		},
	}
	f.addWorker(cmd)
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the voucher to this `file` instead of standard output")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "give up after this `time`")
	return cmd
}

// voucher asks the worker for a job's last voucher and reads it strictly: the
// worker is attested, but a voucher of another job pays nothing.
func (f *workerFlags) voucher(ctx context.Context, job toncell.Address) (doc []byte, err error) {
	s, err := f.open(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := s.close(); err == nil {
			err = cerr
		}
	}()
	tr := s.client.Transport()
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://enclave/.well-known/cocoon/voucher?job="+url.QueryEscape(job.String()), nil)
	if err != nil {
		return nil, fmt.Errorf("asking for the voucher: %w", err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	doc, err = io.ReadAll(io.LimitReader(resp.Body, receipt.MaxVoucher+1))
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "voucher.fetch", "try again", "reading the worker's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.ExitRefused, "voucher.unknown", "wait for the client's first voucher, and ask the worker that served the job",
			"asking for the voucher: the worker answers %s: %s", resp.Status, plain(string(doc[:min(len(doc), 300)])))
	}
	doc = trimSpace(doc)
	v, err := receipt.ParseVoucher(doc)
	if err != nil {
		return nil, err
	}
	if v.Voucher.Job != job {
		return nil, fault.Mismatch(fault.ExitRefused, "voucher.mismatch", "the voucher's job", job.String(), v.Voucher.Job.String(), "ask for the job that the worker served")
	}
	return doc, nil
}
