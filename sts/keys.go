package sts

import (
	"context"
	"errors"
	"time"

	"github.com/workload-sts/sts/jose"
)

// KeySet returns the public keys that verify our tokens, and how long a verifier
// may cache them.
func (s *Service) KeySet() (jose.KeySet, time.Duration) {
	// In this order: should a key come in between, the set has it. The other way
	// round an old set could be cached for as long as a new one.
	maxAge := s.keys.MaxAge()
	return s.keys.KeySet(), maxAge
}

// KeySetDelivered says that a verifier fetched a set that KeySet returned, or was
// told that it has it still.
func (s *Service) KeySetDelivered(set jose.KeySet, verifier string) {
	s.keys.Delivered(set, verifier)
}

// Keys returns what is known about each key set.
func (s *Service) Keys() []KeySetStatus { return s.keys.Status() }

// RotateKey makes the next key of a set and publishes it, or returns the one that
// there is already. The error is an *Error.
func (s *Service) RotateKey(ctx context.Context, by Principal, set string) (key KeyStatus, err error) {
	err = s.administer(ctx, by, "rotate key", set, func() (err error) {
		if key, err = s.keys.Rotate(ctx, set); err != nil {
			return keysError(err, "the next key cannot be made now; the log of the server says why")
		}
		return nil
	})
	return key, err
}

// keysError passes on what is for the caller; anything else is that it is not
// possible now.
func keysError(err error, message string) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Unavailable, RetryAfter: retryAfter(err), Message: message, Err: err}
}

// IssuerStatus returns what is known about the keys of each trusted issuer.
func (s *Service) IssuerStatus() []IssuerStatus { return s.issuerKeys.Status() }
