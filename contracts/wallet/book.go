package wallet

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
)

// State is what is known of a payment.
type State string

// The states of a payment. Signed is the only one that changes: such a message
// may be executed at any time until it is proven that it was, or cannot be.
const (
	Signed   State = "signed"
	Done     State = "done"     // the wallet executed it and sent everything
	Skipped  State = "skipped"  // executed, but not everything went out
	Expired  State = "expired"  // not executed in its time
	Replaced State = "replaced" // its seqno went to another message of the same key
)

// Payment is one message of an entry.
type Payment struct {
	To     toncell.Address `json:"to"`
	Amount coin.Nano       `json:"nanoton"`
}

// Entry is a payment in the journal. It is written before the message leaves
// this process and never removed.
type Entry struct {
	Number   uint64        `json:"number"`
	ID       string        `json:"id,omitempty"` // of the caller
	Digest   hexbytes.Hash `json:"digest"`       // of the messages
	State    State         `json:"state"`
	Payments []Payment     `json:"payments"`

	Message    []byte        `json:"message"` // the signed external message, a bag of cells
	Body       hexbytes.Hash `json:"body"`    // hash of its body, by which it is found on chain
	Slot       uint64        `json:"slot"`    // seqno, or query id
	ValidUntil uint32        `json:"valid_until"`
	Signed     uint32        `json:"signed_at"` // chain time
	Since      uint64        `json:"since"`     // logical time of the wallet's last transaction before

	// Of the transaction that executed it:
	LT          uint64        `json:"lt,omitempty"`
	Transaction hexbytes.Hash `json:"transaction"`
	At          uint32        `json:"at,omitempty"`
	Fees        coin.Nano     `json:"fees"`
	// Told is whether a caller got the outcome; a caller that was cut off
	// before asks again.
	Told bool `json:"told"`
}

// Total is the sum of what the entry sends.
func (e *Entry) Total() coin.Nano {
	var sum coin.Nano
	for _, p := range e.Payments {
		sum += p.Amount
	}
	return sum
}

// counts is whether the entry's coins are spent, or may yet be.
func (e *Entry) counts() bool { return e.State != Expired && e.State != Replaced }

// Caps bound what a wallet sends. They hold for the sums of what its messages
// carry, what may come back of them included.
type Caps struct {
	Day coin.Nano `json:"day"` // in any 24 hours of chain time
	Job coin.Nano `json:"job"` // to any one address, ever: a job is one
}

// profile is what a wallet is.
type profile struct {
	Kind      Kind          `json:"kind"`
	PublicKey hexbytes.Hash `json:"public_key"`
	GlobalID  int32         `json:"global_id"`
	Caps      Caps          `json:"caps"`
}

const (
	bookFile = "wallet.db"

	bucketMeta    = "meta"    // "profile"
	bucketEntries = "entries" // number u64 BE -> JSON Entry
	bucketIDs     = "ids"     // id -> number of its newest entry
	bucketTotals  = "totals"  // address, raw text -> u64 BE
	bucketOpen    = "open"    // numbers of entries in the state Signed
)

// book is the journal: one bbolt file, each change one transaction on disk.
type book struct{ db *bbolt.DB }

func openBook(dir string) (*book, error) {
	path := filepath.Join(dir, bookFile)
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fault.New(fault.ExitInternal, "ton.wallet.in_use", "wait for the other command", "opening %s: %w", path, err)
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "ton.wallet.corrupt", "restore the wallet's directory from a copy", "opening %s: %w", path, err)
	}
	b := &book{db}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketMeta, bucketEntries, bucketIDs, bucketTotals, bucketOpen} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing %s: %w", path, err), db.Close())
	}
	return b, nil
}

func key64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (b *book) profile() (*profile, error) {
	var p *profile
	err := b.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte(bucketMeta)).Get([]byte("profile"))
		if v == nil {
			return nil
		}
		p = &profile{}
		return json.Unmarshal(v, p)
	})
	if err != nil {
		return nil, corrupt(err)
	}
	return p, nil
}

func corrupt(err error) error {
	return fault.New(fault.ExitParse, "ton.wallet.corrupt", "restore the wallet's directory from a copy", "reading a wallet's journal: %w", err)
}

func (b *book) setProfile(p *profile) error {
	v, err := json.Marshal(p)
	if err == nil {
		err = b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucketMeta)).Put([]byte("profile"), v) })
	}
	if err != nil {
		return fmt.Errorf("writing a wallet's profile: %w", err)
	}
	return nil
}

// add journals a signed message if the caps allow it. It numbers the entry;
// sign makes the message for that number.
func (b *book) add(e *Entry, caps Caps, sign func(number uint64) error) error {
	err := b.db.Update(func(tx *bbolt.Tx) error {
		entries := tx.Bucket([]byte(bucketEntries))
		var err error
		if e.Number, err = entries.NextSequence(); err != nil {
			return err
		}
		e.Number-- // from zero
		if err := checkCaps(tx, e, caps); err != nil {
			return err
		}
		if err := sign(e.Number); err != nil {
			return err
		}
		if e.ID != "" {
			if err := tx.Bucket([]byte(bucketIDs)).Put([]byte(e.ID), key64(e.Number)); err != nil {
				return err
			}
		}
		if err := addTotals(tx, e, false); err != nil {
			return err
		}
		return put(tx, e)
	})
	if len(fault.All(err)) == 0 && err != nil {
		return fmt.Errorf("writing a payment to the journal: %w", err)
	}
	return err
}

func put(tx *bbolt.Tx, e *Entry) error {
	v, err := json.Marshal(e)
	if err != nil {
		return err
	}
	open := tx.Bucket([]byte(bucketOpen))
	if e.State == Signed {
		err = open.Put(key64(e.Number), []byte{1})
	} else {
		err = open.Delete(key64(e.Number))
	}
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketEntries)).Put(key64(e.Number), v)
}

func addTotals(tx *bbolt.Tx, e *Entry, less bool) error {
	totals := tx.Bucket([]byte(bucketTotals))
	for _, p := range e.Payments {
		key := []byte(p.To.String())
		sum := total(totals.Get(key))
		if less {
			sum -= p.Amount
		} else {
			sum += p.Amount
		}
		if err := totals.Put(key, key64(uint64(sum))); err != nil {
			return err
		}
	}
	return nil
}

func total(v []byte) coin.Nano {
	if len(v) != 8 {
		return 0
	}
	return coin.Nano(binary.BigEndian.Uint64(v))
}

const day = 24 * 60 * 60

// checkCaps refuses an entry that would leave the caps.
func checkCaps(tx *bbolt.Tx, e *Entry, caps Caps) error {
	to := map[toncell.Address]coin.Nano{}
	for _, p := range e.Payments {
		to[p.To] += p.Amount
	}
	for addr, more := range to {
		if sum := total(tx.Bucket([]byte(bucketTotals)).Get([]byte(addr.String()))) + more; sum > caps.Job {
			return overCap("job", "sent to "+addr.String(), caps.Job, sum)
		}
	}
	sum := e.Total()
	c := tx.Bucket([]byte(bucketEntries)).Cursor()
	for k, v := c.Last(); k != nil; k, v = c.Prev() {
		var old Entry
		if err := json.Unmarshal(v, &old); err != nil {
			return corrupt(err)
		}
		if uint64(old.Signed)+day <= uint64(e.Signed) {
			break
		}
		if old.counts() {
			sum += old.Total()
		}
	}
	if sum > caps.Day {
		return overCap("day", "sent in 24 hours", caps.Day, sum)
	}
	return nil
}

func overCap(name, what string, limit, sum coin.Nano) error {
	return fault.Mismatch(fault.ExitPolicy, "ton.wallet.cap_"+name, "sum "+what, "at most "+limit.String()+" TON", sum.String()+" TON",
		"wait, or raise the cap with `cocoon wallet caps`")
}

// settle writes an entry's outcome; an outcome never changes.
func (b *book) settle(e *Entry) error {
	err := b.db.Update(func(tx *bbolt.Tx) error {
		old, err := get(tx, e.Number)
		if err != nil {
			return err
		}
		if old.State != Signed && old.State != e.State {
			return corrupt(fmt.Errorf("payment %d was %s", e.Number, old.State))
		}
		if old.counts() && !e.counts() {
			if err := addTotals(tx, e, true); err != nil {
				return err
			}
		}
		return put(tx, e)
	})
	if err != nil {
		return fmt.Errorf("writing a payment's outcome: %w", err)
	}
	return nil
}

func get(tx *bbolt.Tx, number uint64) (*Entry, error) {
	v := tx.Bucket([]byte(bucketEntries)).Get(key64(number))
	if v == nil {
		return nil, corrupt(fmt.Errorf("no payment %d", number))
	}
	e := &Entry{}
	if err := json.Unmarshal(v, e); err != nil {
		return nil, corrupt(err)
	}
	return e, nil
}

func (b *book) entry(number uint64) (e *Entry, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		e, err = get(tx, number)
		return err
	})
	return e, err
}

// byID returns the newest entry with a caller's id, or nil.
func (b *book) byID(id string) (e *Entry, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		if v := tx.Bucket([]byte(bucketIDs)).Get([]byte(id)); len(v) == 8 {
			e, err = get(tx, binary.BigEndian.Uint64(v))
		}
		return err
	})
	return e, err
}

// open returns the entries whose fate is not known, oldest first.
func (b *book) open() (out []*Entry, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketOpen)).ForEach(func(k, _ []byte) error {
			e, err := get(tx, binary.BigEndian.Uint64(k))
			out = append(out, e)
			return err
		})
	})
	return out, err
}

// next returns the number that the next entry would get.
func (b *book) next() (n uint64, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		n = tx.Bucket([]byte(bucketEntries)).Sequence()
		return nil
	})
	return n, err
}

// newest returns up to n entries, newest first.
func (b *book) newest(n int) (out []*Entry, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketEntries)).Cursor()
		for k, v := c.Last(); k != nil && len(out) < n; k, v = c.Prev() {
			e := &Entry{}
			if err := json.Unmarshal(v, e); err != nil {
				return corrupt(err)
			}
			out = append(out, e)
		}
		return nil
	})
	return out, err
}
