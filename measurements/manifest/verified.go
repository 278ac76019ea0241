package manifest

import "cocoon/measurements/digest"

// Verified is a manifest whose envelope was opened: who signed it is known.
type Verified struct {
	Manifest *Manifest
	SHA256   digest.SHA256   // of the DSSE payload: the manifest's identity
	Payload  []byte          // the DSSE payload
	Envelope []byte          // what was opened: the payload with everyone's signatures
	Signers  []digest.SHA256 // raw Ed25519 keys, of those asked for, that signed; sorted
}
