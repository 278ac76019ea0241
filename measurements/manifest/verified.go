package manifest

import (
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// Published is a manifest as it is handed around: the DSSE envelope and, where
// there is one, the proof that a log has it (C2SP tlog-proof). Neither is
// believed unread.
type Published struct {
	Envelope  []byte
	Inclusion []byte // empty: none
}

// Verified is a manifest whose envelope was opened: who signed it is known.
type Verified struct {
	Manifest *Manifest
	SHA256   digest.SHA256   // of the DSSE payload: the manifest's identity
	Payload  []byte          // the DSSE payload
	Envelope []byte          // what was opened: the payload with everyone's signatures
	Signers  []digest.SHA256 // raw Ed25519 keys, of those asked for, that signed; sorted

	Inclusion []byte  // the proof that came with it, read or not
	Logged    *Logged // what the proof shows; nil: nobody has looked
}

// Logged is what a proof of inclusion shows of a manifest.
type Logged struct {
	Log       log.Key  // of those asked for
	Witnesses []string // keys, of those asked for, that cosigned the checkpoint
	Text      string   // which entry of which log, for people
	Err       error    // why the proof shows nothing
}
