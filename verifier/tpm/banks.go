package tpm

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"cocoon/measurements/eventlog"
)

// Banks are register values by bank and PCR number. The banks are
// eventlog.SHA256 and eventlog.SHA384.
type Banks map[eventlog.Algorithm]map[int][]byte

// bankNames are the names of the banks that quotes can be over.
var bankNames = map[eventlog.Algorithm]string{eventlog.SHA256: "sha256", eventlog.SHA384: "sha384"}

// bankSizes are the sizes of their registers, in bytes.
var bankSizes = map[eventlog.Algorithm]int{eventlog.SHA256: 32, eventlog.SHA384: 48}

// numPCRs is how many registers a PC's TPM has (PC Client Platform TPM
// Profile 1.06, section 4.6.1).
const numPCRs = 24

// BankName returns "sha256" or "sha384".
func BankName(a eventlog.Algorithm) string { return bankNames[a] }

// selected returns the numbers that one bank's selection has, in order.
func selected(s tpm2.TPMSPCRSelection) []int {
	var out []int
	for i, b := range s.PCRSelect {
		for j := range 8 {
			if b&(1<<j) != 0 {
				out = append(out, 8*i+j)
			}
		}
	}
	return out
}

// checkSelection refuses selections of other banks than SHA-256 and SHA-384,
// of a bank twice, of registers that do not exist, and of none.
func checkSelection(s tpm2.TPMLPCRSelection) error {
	var seen []tpm2.TPMIAlgHash
	n := 0
	for _, sel := range s.PCRSelections {
		if bankNames[eventlog.Algorithm(sel.Hash)] == "" {
			return fmt.Errorf("bank %#04x", uint16(sel.Hash))
		}
		if slices.Contains(seen, sel.Hash) {
			return fmt.Errorf("bank %#04x twice", uint16(sel.Hash))
		}
		seen = append(seen, sel.Hash)
		for _, r := range selected(sel) {
			if r >= numPCRs {
				return fmt.Errorf("PCR %d", r)
			}
			n++
		}
	}
	if n == 0 {
		return errors.New("no registers")
	}
	return nil
}

// pick returns the values that a selection names, and an error where one is
// missing.
func (b Banks) pick(s tpm2.TPMLPCRSelection) (Banks, error) {
	out := Banks{}
	for _, sel := range s.PCRSelections {
		a := eventlog.Algorithm(sel.Hash)
		for _, n := range selected(sel) {
			v, ok := b[a][n]
			if !ok {
				return nil, fmt.Errorf("no value for PCR %d of the bank %s", n, selectionText(tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: sel.Hash}}}))
			}
			if len(v) != bankSizes[a] {
				return nil, fmt.Errorf("value of PCR %d has %d bytes", n, len(v))
			}
			if out[a] == nil {
				out[a] = map[int][]byte{}
			}
			out[a][n] = v
		}
	}
	return out, nil
}

// digest returns the hash of the values that a selection names, in its order
// (TPM 2.0 Library, Part 3, section 18.4 TPM2_Quote, and Part 1, section
// "Selecting multiple PCR").
func (b Banks) digest(s tpm2.TPMLPCRSelection, h crypto.Hash) []byte {
	w := h.New()
	for _, sel := range s.PCRSelections {
		for _, n := range selected(sel) {
			w.Write(b[eventlog.Algorithm(sel.Hash)][n])
		}
	}
	return w.Sum(nil)
}

// replayBanks returns every register of every bank that the log has and
// quotes can be over. What no event extends has its value after reset: all
// ones for PCR 17 to 22, zero for the others (PC Client Platform TPM Profile
// 1.06, section 4.6.2).
func replayBanks(l *eventlog.Log) (Banks, error) {
	out := Banks{}
	for a, size := range bankSizes {
		if !l.Has(a) {
			continue
		}
		regs, err := l.Replay(a)
		if err != nil {
			return nil, err
		}
		out[a] = map[int][]byte{}
		for n := range numPCRs {
			v, ok := regs[n]
			if !ok {
				v = make([]byte, size)
				if n >= 17 && n <= 22 {
					v = bytes.Repeat([]byte{0xff}, size)
				}
			}
			out[a][n] = v
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("log has neither a SHA-256 nor a SHA-384 bank: %w", eventlog.ErrAlgorithm)
	}
	return out, nil
}

// extendRuntime returns PCR 15 of a bank after the given events.
func extendRuntime(a eventlog.Algorithm, events [][]byte) []byte {
	h := map[eventlog.Algorithm]crypto.Hash{eventlog.SHA256: crypto.SHA256, eventlog.SHA384: crypto.SHA384}[a]
	v := make([]byte, bankSizes[a])
	for _, e := range events {
		w := h.New()
		w.Write(e)
		d := w.Sum(nil)
		w.Reset()
		w.Write(v)
		w.Write(d)
		v = w.Sum(nil)
	}
	return v
}

// ReplayDigest returns the digest that a quote has over its registers and the
// one that a log gives for the same registers, in hex. The hash is told by the
// digest's length: the signature, which fixes it, is not looked at.
func ReplayDigest(attest []byte, l *eventlog.Log) (want, got string, err error) {
	q, err := ParseQuote(attest)
	if err != nil {
		return "", "", err
	}
	if err := checkSelection(q.Selection); err != nil {
		return "", "", fmt.Errorf("reading selection: %w: %w", ErrFormat, err)
	}
	h := crypto.SHA256
	if len(q.PCRDigest) == crypto.SHA384.Size() {
		h = crypto.SHA384
	}
	banks, err := replayBanks(l)
	if err != nil {
		return "", "", err
	}
	picked, err := banks.pick(q.Selection)
	if err != nil {
		return "", "", err
	}
	return hex.EncodeToString(q.PCRDigest), hex.EncodeToString(picked.digest(q.Selection, h)), nil
}
