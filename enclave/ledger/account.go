package ledger

import (
	"encoding/base64"

	"cocoon/contracts/receipt"
	"cocoon/enclave/serve"
)

// account is one admitted request.
type account struct {
	job     string // raw address
	entry   *entry
	account *receipt.Account
}

// Job implements serve.Account.
func (a *account) Job() string { return a.job }

// Issue implements serve.Account: base64 of the signed receipt's JCS.
func (a *account) Issue(d serve.Delivery) (string, error) {
	s, err := a.account.Issue(receipt.Delivery{
		Request: receipt.Hash(d.Request), Response: receipt.Hash(d.Response), Cancelled: d.Cancelled,
		Tokens: receipt.Tokens{Prompt: d.Usage.Prompt, Cached: d.Usage.Cached, Completion: d.Usage.Completion, Reasoning: d.Usage.Reasoning},
	})
	if err != nil {
		return "", err
	}
	doc := a.account.Document()
	a.entry.keep(s.Receipt.Request, s.Receipt.Seq, doc)
	return base64.StdEncoding.EncodeToString(doc), nil
}

// Cancel implements serve.Account.
func (a *account) Cancel() { a.account.Cancel() }
