// Package pkcs11key signs with an Ed25519 key that lies in a PKCS #11 token
// (OASIS PKCS #11 version 3.1, section 6.3.16, CKM_EDDSA). In come the names of
// module, token and key and a PIN; out comes a crypto.Signer. The key never
// leaves the token.
//
// Modules are shared objects, so this needs cgo: a program that is built without
// it has no tokens, and says so.
package pkcs11key

import "crypto"

// Options name a key.
type Options struct {
	Module string // path of the module's shared object
	Token  string // label of the token
	Label  string // CKA_LABEL of the key pair
	PIN    string // of the user
}

// Key is a key in a token. Its methods may be called at the same time.
type Key interface {
	crypto.Signer
	// Close gives the sessions back.
	Close() error
}
