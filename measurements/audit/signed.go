package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/manifest"
	"cocoon/measurements/release"
)

const giveTrust = "give the keys that you trust, from elsewhere than the release, with --trust"

// readManifest opens the envelope and says who signed it.
func (a *audit) readManifest() {
	const means = "the envelope was damaged or edited after it was signed"
	if doc, ok := a.read("document.keys", release.KeysFile, release.MaxTrust); ok {
		a.checkKeys(doc)
	}
	env, ok := a.read("manifest.form", release.ManifestFile, manifest.MaxEnvelope)
	if !ok {
		return
	}
	var keys []digest.SHA256
	for _, t := range []*release.Trust{a.o.Trust, a.own} {
		if t != nil {
			keys = append(keys, t.Keys...)
		}
	}
	v, err := manifest.Read(env, keys)
	if err != nil {
		a.add(Row{Check: "manifest.form", Name: release.ManifestFile, Status: Fail, Reason: oneLine(err), Means: means, Remedy: "fetch the manifest again; nothing below can be checked without it"})
		return
	}
	a.v = v
	if err := strictEnvelope(env, v.Payload); err != nil {
		a.add(Row{Check: "manifest.form", Name: release.ManifestFile, Status: Fail, Reason: oneLine(err), Means: means, Remedy: "fetch the manifest again"})
	} else {
		a.pass("manifest.form", release.ManifestFile, v.SHA256.String())
	}
	a.checkSignatures(env)
	m := v.Manifest
	until := m.Sunset.Format(time.RFC3339)
	if !a.o.Now.Before(m.Sunset) {
		a.add(Row{Check: "manifest.sunset", Name: release.ManifestFile, Status: Fail, Expected: "before " + until, Actual: a.o.Now.UTC().Format(time.RFC3339),
			Reason: "the release is past its sunset date", Means: "verifiers refuse the image", Remedy: "audit a newer release"})
	} else {
		a.pass("manifest.sunset", release.ManifestFile, until)
	}
	if m.Image.Debug {
		a.add(Row{Check: "manifest.debug", Name: release.ManifestFile, Status: Fail, Expected: "an image for production", Actual: "profile " + m.Image.Profile,
			Reason: "the image is made to be looked into", Means: "whoever runs it can read what it serves", Remedy: "use it for development only"})
	} else {
		a.pass("manifest.debug", release.ManifestFile, "profile "+m.Image.Profile)
	}
}

// checkKeys reads the release's own list of keys. Whether to trust them is
// not its to say.
func (a *audit) checkKeys(doc []byte) {
	t, err := release.ParseTrust(doc)
	var again []byte
	if err == nil {
		again, err = t.Encode()
	}
	if err == nil && !bytes.Equal(again, doc) {
		err = errors.New("it is not in the form in which it is published")
	}
	if err != nil {
		a.add(Row{Check: "document.keys", Name: release.KeysFile, Status: Fail, Reason: oneLine(err), Means: "the file was damaged or edited", Remedy: "fetch the release again"})
		return
	}
	a.own = t
}

// strictEnvelope refuses what readers of an envelope forgive: key ids that
// are not those of a key, other spellings of the same JSON, bytes after it.
func strictEnvelope(env, payload []byte) error {
	var e struct {
		PayloadType string `json:"payloadType"`
		Payload     string `json:"payload"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
		} `json:"signatures"`
	}
	body, ok := bytes.CutSuffix(env, []byte("\n"))
	if !ok {
		return errors.New("the envelope does not end with a line end")
	}
	if err := jcs.DecodeCanonical(body, manifest.MaxEnvelope, &e); err != nil {
		return err
	}
	if base64.StdEncoding.EncodeToString(payload) != e.Payload {
		return errors.New("the payload is spelt otherwise than base64 is")
	}
	return nil
}

// checkSignatures counts whose signatures hold.
func (a *audit) checkSignatures(env []byte) {
	const check, means = "manifest.signatures", "the manifest was edited after it was signed, or by people whom you do not trust"
	if a.own != nil {
		missing := slices.DeleteFunc(slices.Clone(a.own.Keys), func(k digest.SHA256) bool { return slices.Contains(a.v.Signers, k) })
		row := Row{Check: "document.keys", Name: release.KeysFile, Status: Pass, Actual: fmt.Sprintf("%d keys", len(a.own.Keys))}
		if len(missing) > 0 {
			row = Row{Check: "document.keys", Name: release.KeysFile, Status: Fail, Expected: "keys that signed the manifest", Actual: missing[0].String(),
				Reason: "the release names a key that did not sign it", Means: "the list of keys or the manifest was edited", Remedy: "fetch the release again"}
		}
		a.add(row)
	}
	made, good := countSignatures(env, a.v.Signers)
	if good < made {
		a.add(Row{Check: check, Name: release.ManifestFile, Status: Fail, Expected: fmt.Sprintf("%d good signatures", made), Actual: fmt.Sprint(good),
			Reason: "a signature on the manifest is not by a key that you or the release named", Means: means, Remedy: "fetch the manifest again, or learn whose key it is"})
		return
	}
	if a.o.Trust == nil {
		a.skip(check, release.ManifestFile, fmt.Sprintf("signed by %d key(s) that only the release itself names", len(a.v.Signers)), giveTrust)
		return
	}
	n := 0
	for _, k := range a.v.Signers {
		if slices.Contains(a.o.Trust.Keys, k) {
			n++
		}
	}
	if n < a.o.Trust.Threshold {
		a.add(Row{Check: check, Name: release.ManifestFile, Status: Fail, Expected: fmt.Sprintf("%d of your keys", a.o.Trust.Threshold), Actual: fmt.Sprint(n),
			Reason: "not enough of the keys that you trust signed the manifest", Means: means, Remedy: "do not use the release"})
		return
	}
	a.pass(check, release.ManifestFile, fmt.Sprintf("%d of %d trusted keys, %d needed", n, len(a.o.Trust.Keys), a.o.Trust.Threshold))
}

// countSignatures returns how many signatures an envelope has, and how many of
// them are under the id of a key that signed.
func countSignatures(env []byte, signers []digest.SHA256) (made, good int) {
	var e struct {
		PayloadType string `json:"payloadType"`
		Payload     string `json:"payload"`
		Signatures  []struct {
			KeyID string `json:"keyid"`
			Sig   string `json:"sig"`
		} `json:"signatures"`
	}
	if err := jcs.Decode(env, manifest.MaxEnvelope, &e); err != nil {
		return 1, 0
	}
	ids := map[string]bool{}
	for _, k := range signers {
		ids[manifest.KeyID(k[:])] = true
	}
	for _, s := range e.Signatures {
		if ids[s.KeyID] {
			good++
			delete(ids, s.KeyID)
		}
	}
	return len(e.Signatures), good
}

// checkLog verifies the proofs that the release has, under the auditor's key
// of the log or, shown and not taken, the release's.
func (a *audit) checkLog(ctx context.Context) {
	const means = "the manifest was never published in the log, or the log was rewritten"
	var key *log.Key
	trusted := a.o.Trust != nil && a.o.Trust.Log != nil
	switch {
	case trusted:
		key = a.o.Trust.Log
	case a.own != nil:
		key = a.own.Log
	}
	if key == nil {
		a.skip("log.inclusion", release.InclusionFile, "no key of a log is known", giveTrust)
		return
	}
	fail := func(check, name string, err error) {
		a.add(Row{Check: check, Name: name, Status: Fail, Reason: oneLine(err), Means: means, Remedy: "ask the log itself, and whoever published the release"})
	}
	doc, ok := a.read("log.inclusion", release.InclusionFile, log.MaxProof)
	if !ok {
		return
	}
	in, err := log.ParseInclusion(doc)
	var now *log.Checkpoint
	if err == nil {
		now, err = in.Verify(a.v.SHA256, *key)
	}
	if err != nil {
		fail("log.inclusion", release.InclusionFile, err)
	} else {
		a.logged("log.inclusion", release.InclusionFile, fmt.Sprintf("entry %d of %d in %s", in.Index, now.Size, now.Origin), trusted)
	}
	if doc, ok = a.read("log.consistency", release.ConsistencyFile, log.MaxProof); !ok {
		return
	}
	co, err := log.ParseConsistency(doc)
	var from, to *log.Checkpoint
	if err == nil {
		from, to, err = co.Verify(*key)
	}
	if err == nil && now != nil && (to.Size != now.Size || to.Root != now.Root) {
		err = fmt.Errorf("it leads to another checkpoint than the proof of inclusion")
	}
	if err != nil {
		fail("log.consistency", release.ConsistencyFile, err)
		return
	}
	a.logged("log.consistency", release.ConsistencyFile, fmt.Sprintf("from %d entries to %d", from.Size, to.Size), trusted)
	a.checkEarlier(ctx, *key, from, to, fail)
}

func (a *audit) logged(check, name, actual string, trusted bool) {
	if trusted {
		a.pass(check, name, actual)
		return
	}
	a.skip(check, name, actual+", under a key that only the release itself names", giveTrust)
}

// checkEarlier ties the proofs to a checkpoint that the auditor has kept: the
// one that the release starts from or ends in, or any other if the log itself
// gives the proof.
func (a *audit) checkEarlier(ctx context.Context, key log.Key, from, to *log.Checkpoint, fail func(check, name string, err error)) {
	const check, name = "log.earlier", "checkpoint that you kept"
	if a.o.Earlier == nil {
		a.skip(check, name, "none was given", "keep the checkpoint at the end of "+release.InclusionFile+" and give it at the next release with --earlier")
		return
	}
	kept, err := log.OpenCheckpoint(a.o.Earlier, key)
	if err != nil {
		fail(check, name, err)
		return
	}
	for _, c := range []*log.Checkpoint{from, to} {
		if c.Size == kept.Size {
			if c.Root != kept.Root {
				fail(check, name, fmt.Errorf("log had another root at %d entries than you kept: it was rewritten", kept.Size))
				return
			}
			a.pass(check, name, fmt.Sprintf("%d entries", kept.Size))
			return
		}
	}
	if a.o.Consistency == nil {
		a.skip(check, name, fmt.Sprintf("the release's proof starts at %d entries, yours has %d", from.Size, kept.Size), "give the log with --log")
		return
	}
	doc, err := a.o.Consistency(ctx, a.o.Earlier)
	if err != nil {
		fail(check, name, err)
		return
	}
	co, err := log.ParseConsistency(doc)
	if err == nil {
		var later *log.Checkpoint
		if from, later, err = co.Verify(key); err == nil && (from.Root != kept.Root || from.Size != kept.Size || later.Size < to.Size) {
			err = errors.New("the log answered with a proof of something else")
		}
		// What you kept and what the release rests on are both under one later
		// checkpoint: neither is a fork.
		if err == nil && (later.Size != to.Size || later.Root != to.Root) {
			err = a.extends(ctx, key, to, later)
		}
	}
	if err != nil {
		fail(check, name, err)
		return
	}
	a.pass(check, name, fmt.Sprintf("%d entries", kept.Size))
}

// extends asks the log for a proof from one checkpoint to a later one that is
// at least as long as another.
func (a *audit) extends(ctx context.Context, key log.Key, from, later *log.Checkpoint) error {
	doc, err := a.o.Consistency(ctx, from.Raw)
	if err != nil {
		return err
	}
	co, err := log.ParseConsistency(doc)
	if err != nil {
		return err
	}
	first, last, err := co.Verify(key)
	if err == nil && (first.Size != from.Size || first.Root != from.Root || last.Size != later.Size || last.Root != later.Root) {
		err = errors.New("the log answered with a proof of something else, or grew meanwhile")
	}
	return err
}
