// Package jose reads and writes what strangers send and check: JSON objects,
// JSON Web Signatures in compact form, and JSON Web Key sets. It is strict where
// the standard library is lenient, and it knows no secrets: no MAC, no
// encryption, no unsigned tokens.
package jose

import "errors"

// Errors that callers match. Every error of this package is one of them.
var (
	ErrMalformed   = errors.New("malformed")                            // the form is wrong
	ErrAlgorithm   = errors.New("signature algorithm is not supported") // or is not a name of one
	ErrKeyMismatch = errors.New("the key is not for this signature")    // other algorithm, type or id
	ErrSignature   = errors.New("the signature does not verify")
	ErrUnknownKey  = errors.New("no key of this id") // for sources of keys in other packages
)

// MaxTokenSize is the longest token that is read, in bytes.
const MaxTokenSize = 16 << 10
