package serve

import (
	"context"
	"time"

	"cocoon/measurements/digest"
)

// Names of HTTP fields and paths of billing.
const (
	HeaderJob      = "Cocoon-Job"        // request: TON address of the job that pays
	HeaderTimeout  = "Cocoon-Timeout-Ms" // request: how long it may take in all, in milliseconds
	TrailerReceipt = "Cocoon-Receipt"    // response trailer: base64 of the signed receipt
	PathVoucher    = "/.well-known/cocoon/voucher"
	PathReceipt    = "/.well-known/cocoon/receipt"
)

// Delivery is one served response: the SHA-256 of the exact body bytes, as
// received and as sent, and what is billed.
type Delivery struct {
	Request   digest.SHA256
	Response  digest.SHA256
	Usage     Usage
	Cancelled bool // it ended early: the client hung up, its time was over, or the engine died
	Time      time.Time
}

// Account is one admitted request. Exactly one of Issue and Cancel is called.
type Account interface {
	// Job names the job, the same way however its address was written.
	Job() string
	// Issue signs the receipt and returns its trailer value.
	Issue(d Delivery) (string, error)
	// Cancel gives the reservation back; nothing was delivered.
	Cancel()
}

// Ledger says whether a job may be served, and takes the client's vouchers.
// Refusals are faults; their codes are those of faultStatus, or "job.…" for
// 402 Payment Required. A server without a Ledger serves everyone.
type Ledger interface {
	// Open admits a request of a job for an answer by a model, which will cost at
	// most most tokens. The job must be released on chain to this worker's receipt
	// key, for this model, and within its deposit and credit.
	Open(ctx context.Context, job, model string, most Usage) (Account, error)
	// Accept takes a voucher document and returns the answer's JSON.
	Accept(ctx context.Context, doc []byte) ([]byte, error)
	// Voucher returns the last voucher of a job and what it covers, as JSON,
	// so that anyone may redeem it.
	Voucher(ctx context.Context, job string) ([]byte, error)
	// Receipt returns the newest receipt for a request whose body has this
	// SHA-256 (hex), as JSON, for a client whose connection broke before the
	// trailer. The same body may have been sent more than once: before, where
	// it is not empty, is a receipt's number (decimal), and only receipts with
	// lower ones count.
	Receipt(ctx context.Context, job, request, before string) ([]byte, error)
}
