//go:build !cgo

package pkcs11key

import "errors"

// Modules are the modules of this process.
type Modules struct{}

// Open refuses: there is no cgo.
func (*Modules) Open(Options) (Key, error) {
	return nil, errors.New("opening token: this program was built without cgo, which PKCS #11 modules need")
}
