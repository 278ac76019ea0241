package job

import (
	"cocoon/internal/hexbytes"
)

// Hash is 32 bytes, lower-case hex in JSON: a hash, a key or a salt.
type Hash = hexbytes.Hash
