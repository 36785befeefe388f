package storage

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrRestored is why a cluster is refused that has lost what it had acknowledged,
// or is not the one that it was.
var ErrRestored = errors.New("the etcd cluster was restored from a backup or replaced, and what was revoked or used since then is not known; see docs/etcd.md, then let it be used with `stsctl storage confirm`")

// ErrDoubt is what an error of Txn is if the transaction may have been done, or may
// still be. One that is not was certainly not done.
var ErrDoubt = errors.New("the transaction may have been done or not")

// etcdAdvice is what to do about errors that say that nothing was done. The user
// and the prefix of the store are filled in.
var etcdAdvice = []struct {
	err  error
	what string
}{
	{rpctypes.ErrNoSpace, "etcd has raised the alarm NOSPACE and takes no writes: its database has reached its quota (--quota-backend-bytes); compact and defragment it, then disarm the alarm with `etcdctl alarm disarm`"},
	{rpctypes.ErrCorrupt, "etcd has raised the alarm CORRUPT: its members differ; see its operator"},
	{rpctypes.ErrPermissionDenied, "etcd denies %[1]s what it needs: grant its role readwrite on the prefix %[2]s, as docs/etcd.md shows"},
	{rpctypes.ErrUserEmpty, "etcd demands a login: set storage.etcd.username and password_file"},
	{rpctypes.ErrAuthFailed, "etcd refuses the login of %[1]s: is the password in password_file the right one?"},
	{rpctypes.ErrInvalidAuthToken, "etcd does not know the login of %[1]s any more; it is made anew"},
	{rpctypes.ErrAuthOldRevision, "the users of etcd have changed, and the login of %[1]s is made anew"},
	{rpctypes.ErrRequestTooLarge, "etcd takes no transactions of this size: raise its --max-request-bytes to 1.5 MiB, its default, or more"},
	{rpctypes.ErrTooManyOps, "etcd takes no transactions of so many operations: raise its --max-txn-ops to 128, its default, or more"},
	{rpctypes.ErrTooManyRequests, "etcd is overloaded"},
	{rpctypes.ErrLeaseNotFound, "the lease of an entry has ended"},
}

// problem says what an error of the library means. wrote tells whether the request
// may have changed something when it is not known what came of it.
func (e *Etcd) problem(caller context.Context, err error, wrote bool) error {
	if err == nil {
		return nil
	}
	if ended := caller.Err(); ended != nil {
		return doubtful(wrote, fmt.Errorf("asking etcd: %w", ended))
	}
	if errors.Is(err, rpctypes.ErrCompacted) {
		return ErrCompacted
	}
	for _, a := range etcdAdvice {
		if errors.Is(err, a.err) {
			return &etcdError{fmt.Sprintf(a.what+"%.0[2]s%.0[1]s", e.user(), e.options.Prefix), err}
		}
	}
	why := err
	if last := e.pulse.why(); last != nil {
		why = last
	}
	code := status.Code(err)
	if errors.Is(err, context.DeadlineExceeded) || code == codes.DeadlineExceeded || code == codes.Unavailable || errors.Is(err, rpctypes.ErrTimeout) || errors.Is(err, rpctypes.ErrNoLeader) {
		return doubtful(wrote, &etcdError{fmt.Sprintf("etcd does not answer within %v (%v): is it up, and has it a leader?", e.options.RequestTimeout, why), err})
	}
	return doubtful(wrote, fmt.Errorf("asking etcd: %w", err))
}

// user names who this client is to etcd.
func (e *Etcd) user() string {
	if e.options.Username == "" {
		return "the user that the client certificate names, or nobody,"
	}
	return fmt.Sprintf("the user %q", e.options.Username)
}

func doubtful(wrote bool, err error) error {
	if !wrote {
		return err
	}
	return fmt.Errorf("%w; %w", err, ErrDoubt)
}

// etcdError is an error of the library in our words.
type etcdError struct {
	what  string
	cause error
}

func (e *etcdError) Error() string { return e.what }

// Is tells errors of etcd by what they are. That a request has timed out is not
// told as that of a context: the caller's has not ended.
func (e *etcdError) Is(target error) bool {
	return target != context.DeadlineExceeded && errors.Is(e.cause, target)
}
