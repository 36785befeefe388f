package sts

import (
	"context"
	"fmt"
	"slices"
)

// Resource returns a resource and the revision that it was read at.
func (s *Service) Resource(ref Ref) (Resource, int64, error) {
	st := s.state.Load()
	r, ok := st.resources[ref]
	if !ok {
		return Resource{}, 0, &Error{Code: NotFound, Message: "there is no such resource"}
	}
	return r, st.revision, nil
}

// Resources returns up to limit resources of a kind, or of all kinds if it is
// empty, that come after a given one in the order of kind and name, whether
// there are more, and the revision.
func (s *Service) Resources(kind Kind, after Ref, limit int) (page []Resource, more bool, revision int64) {
	st := s.state.Load()
	start := 0
	if after != (Ref{}) {
		var found bool
		if start, found = slices.BinarySearchFunc(st.order, after, compareRefs); found {
			start++
		}
	}
	for _, ref := range st.order[start:] {
		if kind != "" && ref.Kind != kind {
			continue
		}
		if len(page) == limit {
			return page, true, st.revision
		}
		page = append(page, st.resources[ref])
	}
	return page, false, st.revision
}

// EnsureAdmin makes sure that there is an admin token. It returns the token if it
// had to make one, which is then never to be had again, else "".
func (s *Service) EnsureAdmin(ctx context.Context) (string, error) {
	hash, err := s.store.AdminHash(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the admin token's hash: %w", err)
	}
	if hash != "" {
		return "", nil
	}
	return s.ReplaceAdmin(ctx)
}

// ReplaceAdmin makes a new admin token; the old one stops working.
func (s *Service) ReplaceAdmin(ctx context.Context) (string, error) {
	return ReplaceAdmin(ctx, s.store)
}

// ReplaceAdmin makes a new admin token in a store, for whoever has lost the old
// one, which stops working.
func ReplaceAdmin(ctx context.Context, store Store) (string, error) {
	old, err := store.AdminHash(ctx)
	if err != nil {
		return "", fmt.Errorf("reading the admin token's hash: %w", err)
	}
	token, hash := NewSecret()
	if err := store.SetAdminHash(ctx, old, hash); err != nil {
		return "", fmt.Errorf("storing the admin token's hash: %w", err)
	}
	return token, nil
}

// AuthenticateAdmin returns nil if token is the admin token, else an *Error.
func (s *Service) AuthenticateAdmin(ctx context.Context, token string) error {
	stored, err := s.store.AdminHash(ctx)
	if err != nil && ctx.Err() != nil {
		return gone(err) // which says nothing about the store, and anybody can do
	}
	if err != nil {
		s.health.failed(CapabilityAdmin, s.now(), DependencyStorage, err)
		return &Error{Code: Unavailable, RetryAfter: retryLater, Message: "the admin token cannot be checked now", Err: err}
	}
	hash, err := parseSecretHash(stored)
	if err != nil {
		hash = decoy
	}
	if !hash.matches(token) || err != nil {
		return &Error{Code: Unauthenticated, Message: "the admin token is missing or wrong; send it as `authorization: Bearer TOKEN`"}
	}
	return nil
}
