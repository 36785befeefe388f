package sts

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// AnyETag in Change.Match stands for a resource that must be there, whatever it is.
const AnyETag = "*"

// ETag names a resource as it is: two that are the same have the same one, on every
// node. It is a hash of what is stored, so it tells nothing that the resource itself
// does not.
func (r Resource) ETag() string {
	b, err := json.Marshal(r)
	if err != nil {
		return "" // what cannot be encoded is not stored either
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:15])
}

// unmet returns nil if the resources are as a change expects them by Match.
func (c Change) unmet(now map[Ref]Resource) *Error {
	for _, ref := range slices.SortedFunc(maps.Keys(c.Match), compareRefs) {
		want := c.Match[ref]
		r, exists := now[ref]
		message := ""
		switch {
		case want == "" && exists:
			message = "the " + string(ref.Kind) + " exists already"
		case want == "" || want == AnyETag && exists:
		case !exists:
			message = "the " + string(ref.Kind) + " does not exist any more"
		case r.ETag() != want:
			message = fmt.Sprintf("the %s was changed by somebody else: its etag is %s now", ref.Kind, r.ETag())
		}
		if message != "" {
			return &Error{Code: PreconditionFailed, Message: message + "; nothing was changed; read it again and decide anew", Err: fmt.Errorf("about %s", ref)}
		}
	}
	return nil
}
