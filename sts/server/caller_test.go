package server

import (
	"crypto/sha256"
	"encoding/base64"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/jose"
	"github.com/workload-sts/sts/policy"
	"github.com/workload-sts/sts/sts"
)

// withAdmins defines the admin interface as an Audience, and lets the client web
// get tokens that read and write there.
func (f *fixture) withAdmins(t *testing.T) {
	t.Helper()
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{
		{Audience: &sts.Audience{Name: "sts-admin", Identifiers: []string{f.service.AdminAudience()}, Scopes: []string{sts.ScopeAdminRead, sts.ScopeAdminWrite}}},
		{Audience: &sts.Audience{Name: "look-alike", Scopes: []string{sts.ScopeAdminRead, sts.ScopeAdminWrite}}},
		{Rule: &policy.Rule{
			Name: "admins", Requester: policy.Requester{Clients: []string{"web"}},
			Allow: policy.Allow{Audiences: []string{"sts-admin", "look-alike"}, MultipleAudiences: true, Scopes: []string{sts.ScopeAdminRead, sts.ScopeAdminWrite}},
		}},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// adminToken gets a token of the client web for audiences and a scope.
func (f *fixture) adminToken(t *testing.T, scope string, proofs []string, audiences ...string) string {
	t.Helper()
	got := f.form(t, ask{auth: []string{basicAuth("web", f.secret)}, proofs: proofs, params: map[string][]string{"audience": audiences, "scope": {scope}}})
	if got.token == "" {
		t.Fatal(got.raw)
	}
	return got.token
}

// callAll calls every method of the admin interface, and returns what it may:
// nothing, some or everything.
func (f *fixture) callAll(t *testing.T, conn *grpc.ClientConn, md ...string) sts.Access {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), md...)
	var allowed, refused []string
	for method, a := range accessTo {
		if a.who != readers && a.who != writers {
			continue
		}
		// An empty message is refused by the handler, or does nothing.
		got := answerOf(conn.Invoke(ctx, method, &stsv1.ListKeysRequest{}, &stsv1.ListKeysResponse{}))
		switch {
		case got.grpc == codes.Unauthenticated && got.code == sts.Unauthenticated, got.grpc == codes.PermissionDenied && got.code == sts.InsufficientScope:
			refused = append(refused, method)
		default:
			allowed = append(allowed, method)
		}
	}
	mayWrite := func(method string) bool { return accessTo[method].who == writers }
	switch {
	case len(refused) == 0:
		return sts.WriteAccess
	case len(allowed) == 0:
		return sts.NoAccess
	case !slices.ContainsFunc(allowed, mayWrite) && !slices.ContainsFunc(refused, func(m string) bool { return !mayWrite(m) }):
		return sts.ReadAccess
	}
	t.Errorf("allowed %v, refused %v", allowed, refused)
	return -1
}

// TestAdminTokens walks every method of the admin interface with tokens of this
// service [G-08, N-13].
func TestAdminTokens(t *testing.T) {
	f := newFixture(t)
	f.withAdmins(t)
	admin := f.service.AdminAudience()
	write := f.adminToken(t, sts.ScopeAdminWrite, nil, admin)
	for name, row := range map[string]struct {
		token string
		want  sts.Access
	}{
		"write":               {write, sts.WriteAccess},
		"read":                {f.adminToken(t, sts.ScopeAdminRead, nil, admin), sts.ReadAccess},
		"both":                {f.adminToken(t, sts.ScopeAdminRead+" "+sts.ScopeAdminWrite, nil, admin), sts.WriteAccess},
		"another audience":    {f.adminToken(t, sts.ScopeAdminWrite, nil, "look-alike"), sts.NoAccess},
		"several audiences":   {f.adminToken(t, sts.ScopeAdminWrite, nil, admin, "look-alike"), sts.NoAccess},
		"without a signature": {write[:strings.LastIndexByte(write, '.')+1], sts.NoAccess},
		"changed":             {write[:len(write)-8] + "AAAAAAAA", sts.NoAccess},
		"not a token":         {canary, sts.NoAccess},
		"admin token":         {f.admin, sts.WriteAccess},
	} {
		if got := f.callAll(t, f.conn, "authorization", "Bearer "+row.token); got != row.want {
			t.Errorf("%s: %v, want %v", name, got, row.want)
		}
	}
	if got := f.callAll(t, f.conn, "authorization", "Bearer "+write, "authorization", "Bearer "+write); got != sts.NoAccess {
		t.Error("two tokens at once")
	}
	for name, row := range map[string]struct {
		token     string
		http      int
		challenge string
	}{
		"none":    {"", 401, `Bearer realm="sts"`},
		"changed": {write[:len(write)-8] + "AAAAAAAA", 401, `Bearer realm="sts", error="invalid_token"`},
		"read":    {f.adminToken(t, sts.ScopeAdminRead, nil, admin), 403, `Bearer realm="sts", error="insufficient_scope", scope="sts.admin.write"`},
	} {
		req := f.request(t, "DELETE", "/v1/resources/Client/nobody", nil)
		if row.token != "" {
			req.Header.Set("Authorization", "Bearer "+row.token)
		}
		if got := f.do(t, req); got.http != row.http || got.header.Get("WWW-Authenticate") != row.challenge {
			t.Errorf("%s: %d %s %s", name, got.http, got.header.Get("WWW-Authenticate"), got.raw)
		}
	}
	f.assertNoCanary(t, f.log.String())
}

// TestAdminAudience holds that the Audience of the admin interface has no scope
// that means nothing there.
func TestAdminAudience(t *testing.T) {
	f := newFixture(t)
	_, err := f.service.Apply(t.Context(), sts.Change{Put: []sts.Resource{{Audience: &sts.Audience{
		Name: "a", Identifiers: []string{f.service.AdminAudience()}, Scopes: []string{"sts.admin.wirte"},
	}}}})
	if err == nil {
		t.Error("accepted")
	}
}

// TestAdminBoundTokens holds that a token that is bound to a key is of no use
// without a fresh proof of it [B-07].
func TestAdminBoundTokens(t *testing.T) {
	f := newFixture(t, withGRPCURL)
	f.withAdmins(t)
	key := newProofKey(t)
	token := f.adminToken(t, sts.ScopeAdminRead, []string{proofFor(t, key, issuer+"/oauth2/token", nil)}, f.service.AdminAudience())
	hash := sha256.Sum256([]byte(token))
	ath := map[string]any{"ath": base64.RawURLEncoding.EncodeToString(hash[:]), "htm": "GET"}
	const path = "/v1/resources"
	good := func() string { return proofFor(t, key, issuer+path, ath) }
	send := func(scheme string, proofs ...string) answer {
		req := f.request(t, "GET", path, nil)
		req.Header.Set("Authorization", scheme+" "+token)
		req.Header[headerProof] = proofs
		return f.do(t, req)
	}
	once := good()
	if got := send("DPoP", once); got.http != 200 {
		t.Fatalf("good: %d %s", got.http, got.raw)
	}
	for name, got := range map[string]answer{
		"as a bearer":     send("Bearer"),
		"bearer, proof":   send("Bearer", good()),
		"no proof":        send("DPoP"),
		"two proofs":      send("DPoP", good(), good()),
		"used before":     send("DPoP", once),
		"without ath":     send("DPoP", proofFor(t, key, issuer+path, map[string]any{"htm": "GET"})),
		"another method":  send("DPoP", proofFor(t, key, issuer+path, map[string]any{"ath": ath["ath"]})),
		"another path":    send("DPoP", proofFor(t, key, issuer+"/v1/keys", ath)),
		"another key":     send("DPoP", proofFor(t, newProofKey(t), issuer+path, ath)),
		"the form's path": send("DPoP", proofFor(t, key, issuer+"/oauth2/token", ath)),
	} {
		if got.http != 401 || !strings.Contains(got.header.Get("WWW-Authenticate"), "error=") {
			t.Errorf("%s: %d %s %s", name, got.http, got.header.Get("WWW-Authenticate"), got.raw)
		}
	}
	ath["htm"] = "POST"
	proof := proofFor(t, key, grpcURL+stsv1.AdminService_ListKeys_FullMethodName, ath)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "DPoP "+token, metadataProof, proof)
	if _, err := stsv1.NewAdminServiceClient(f.conn).ListKeys(ctx, &stsv1.ListKeysRequest{}); err != nil {
		t.Errorf("over gRPC: %v", err)
	}
	if _, err := stsv1.NewAdminServiceClient(f.conn).ListKeys(ctx, &stsv1.ListKeysRequest{}); answerOf(err).grpc != codes.Unauthenticated {
		t.Errorf("again over gRPC: %v", err)
	}
}

// TestAdminNonce holds that a proof without the nonce that proofs must have is
// answered with one [RFC 9449 §9].
func TestAdminNonce(t *testing.T) {
	f := (&fixture{nonceKey: []byte("0123456789abcdef0123456789abcdef")}).start(t)
	f.withAdmins(t)
	key := newProofKey(t)
	first := f.form(t, ask{auth: []string{basicAuth("web", f.secret)}, proofs: []string{proofFor(t, key, issuer+"/oauth2/token", nil)}, params: map[string][]string{"audience": {f.service.AdminAudience()}}})
	token := f.adminToken(t, sts.ScopeAdminRead, []string{proofFor(t, key, issuer+"/oauth2/token", map[string]any{"nonce": first.nonce})}, f.service.AdminAudience())
	hash := sha256.Sum256([]byte(token))
	send := func(nonce any) answer {
		req := f.request(t, "GET", "/v1/keys", nil)
		req.Header.Set("Authorization", "DPoP "+token)
		req.Header.Set(headerProof, proofFor(t, key, issuer+"/v1/keys", map[string]any{"ath": base64.RawURLEncoding.EncodeToString(hash[:]), "htm": "GET", "nonce": nonce}))
		return f.do(t, req)
	}
	got := send("old")
	if got.http != 401 || got.code != sts.UseDPoPNonce || got.nonce == "" || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), `DPoP error="use_dpop_nonce"`) {
		t.Fatalf("%d %s %v", got.http, got.raw, got.header)
	}
	if got = send(got.nonce); got.http != 200 {
		t.Errorf("with the nonce: %d %s", got.http, got.raw)
	}
}

// TestAdminCertificates lets administrators in by certificate, on both faces
// [G-07].
func TestAdminCertificates(t *testing.T) {
	m := newMutual(t)
	name := func(c sts.ClientTLS) sts.CertificateName {
		n, err := sts.NewCertificateName(&c)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	m.server.face.chain.admin.Clients = []AdminClient{
		{name(sts.ClientTLS{SANDNS: "ops.example.com"}), "ops.example.com", sts.WriteAccess},
		{name(sts.ClientTLS{SANDNS: "look.example.com"}), "look.example.com", sts.ReadAccess},
	}
	ops, look, other := m.ca.issue(t, "ops.example.com"), m.ca.issue(t, "look.example.com"), m.ca.issue(t, "orders.example.com")
	foreign, own := newAuthority(t, "foreign", nil).issue(t, "ops.example.com"), (*certAuthority)(nil).issue(t, "ops.example.com")
	for label, row := range map[string]struct {
		as   *as
		want sts.Access
		http int
	}{
		"write": {m.as(t, &ops), sts.WriteAccess, 200}, "read": {m.as(t, &look), sts.ReadAccess, 200},
		"not named": {m.as(t, &other), sts.NoAccess, 401}, "of another authority": {m.as(t, &foreign), sts.NoAccess, 401},
		"self-signed": {m.as(t, &own), sts.NoAccess, 401}, "none": {m.as(t, nil), sts.NoAccess, 401},
	} {
		if got := m.callAll(t, row.as.conn); got != row.want {
			t.Errorf("%s: %v, want %v", label, got, row.want)
		}
		resp, err := row.as.http.Get(strings.Replace(m.url, "http:", "https:", 1) + "/v1/resources")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != row.http {
			t.Errorf("%s: %d", label, resp.StatusCode)
		}
	}
	// A token that is sent decides, whatever the certificate.
	if got := m.callAll(t, m.as(t, &ops).conn, "authorization", "Bearer "+secretOf("wrong")); got != sts.NoAccess {
		t.Errorf("a wrong token with a good certificate: %v", got)
	}
}

// socketPath is a path that is short enough wherever temporary files are.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sts")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "admin.sock")
}

// TestAdminSocket administers over the socket, as the user of the process [L-10].
func TestAdminSocket(t *testing.T) {
	path := socketPath(t)
	f := (&fixture{socket: path}).start(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Fatalf("%v %v", info, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("%v beside the socket", left)
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := f.callAll(t, conn); got != sts.WriteAccess {
		t.Errorf("the user of the process: %v", got)
	}
	if got := f.callAll(t, conn, "authorization", "Bearer "+secretOf("wrong")); got != sts.NoAccess {
		t.Errorf("a wrong token over the socket: %v", got)
	}
	if !strings.Contains(f.log.String(), `"peer":"unix"`) {
		t.Error("the log does not say that it was the socket")
	}
	// Who else there is the kernel says, so it is asked here.
	a := &admins{AdminConfig: AdminConfig{UIDs: []int64{70001}, GIDs: []int64{70002}}}
	for name, row := range map[string]struct {
		peer socketPeer
		ok   bool
	}{
		"root":      {socketPeer{uid: 0, gid: 1}, true},
		"a user":    {socketPeer{uid: 70001, gid: 1}, true},
		"a group":   {socketPeer{uid: 70009, gid: 70002}, true},
		"another":   {socketPeer{uid: 70009, gid: 70009}, false},
		"swapped":   {socketPeer{uid: 70002, gid: 70001}, false},
		"not known": {socketPeer{uid: 0, gid: 0, err: errBroken}, false},
	} {
		if got := a.bySocket(&row.peer); (got.err == nil) != row.ok {
			t.Errorf("%s: %v", name, got.err)
		}
	}
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}
}

// TestListenAdmin holds that a socket takes nobody else's place.
func TestListenAdmin(t *testing.T) {
	path := socketPath(t)
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if ln, err := ListenAdmin(path, false); err == nil {
		ln.Close()
		t.Error("took over a socket that is in use")
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	ln, err := ListenAdmin(path, true)
	if err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	ln.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := ListenAdmin(path, false); err == nil {
		ln.Close()
		t.Error("replaced a file")
	}
	if ln, err := ListenAdmin("/tmp/"+strings.Repeat("x", 104), false); err == nil {
		ln.Close()
		t.Error("a path that is too long")
	}
}

// TestAdminTokenFile holds that the token of the file ends with the file, and that
// a file that others can read counts for nothing [L-10].
func TestAdminTokenFile(t *testing.T) {
	f := newFixture(t)
	file := f.server.face.chain.admin.TokenFile
	try := func() int { return f.adminRequest(t, http.MethodGet, "/v1/keys", "").http }
	if got := try(); got != 200 {
		t.Fatal(got)
	}
	for name, change := range map[string]func() error{
		"L-10 readable by others": func() error { return os.Chmod(file, 0o640) },
		"short":                   func() error { return os.WriteFile(file, []byte("stss_short"), 0o600) },
		"another":                 func() error { return os.WriteFile(file, []byte(secretOf("other")), 0o600) },
		"gone":                    func() error { return os.Remove(file) },
	} {
		if err := os.WriteFile(file, []byte(f.admin), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if got := try(); got != 401 {
			t.Errorf("%s: %d", name, got)
		}
		os.Remove(file)
	}
	if err := os.WriteFile(file, []byte("# for the workload\n"+f.admin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CheckAdminToken(file); err == nil || !strings.Contains(err.Error(), "one secret alone") {
		t.Errorf("all that `stsctl secret new` prints: %v", err)
	}
	f.assertNoCanary(t, f.log.String())
}

// TestRevokedAdminToken holds that a token of an administrator counts no more at
// the admin interface when it is revoked, by whatever it can be, and that the record
// says which one it was.
func TestRevokedAdminToken(t *testing.T) {
	ids := func(t *testing.T, token string) (jti, kid string) {
		jws, err := jose.Parse(token)
		if err != nil {
			t.Fatal(err)
		}
		claims, err := jws.Claims()
		if err != nil {
			t.Fatal(err)
		}
		return claims["jti"].(string), jws.Header.KeyID
	}
	for name, revoke := range map[string]func(jti, kid string) sts.Revoke{
		"N-14 the token": func(jti, _ string) sts.Revoke { return sts.Revoke{Kind: sts.RevokeToken, Value: jti} },
		"its client":     func(string, string) sts.Revoke { return sts.Revoke{Kind: sts.RevokeClient, Value: "web"} },
		"its subject":    func(string, string) sts.Revoke { return sts.Revoke{Kind: sts.RevokeSubject, Value: "web"} },
		"everything":     func(string, string) sts.Revoke { return sts.Revoke{Kind: sts.RevokeAll} },
		"its key":        func(_, kid string) sts.Revoke { return sts.Revoke{Kind: sts.RevokeKey, Value: kid} },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.withAdmins(t)
			token := f.adminToken(t, sts.ScopeAdminWrite, nil, f.service.AdminAudience())
			id, kid := ids(t, token)
			by := sts.Principal{Name: "tester"}
			r := revoke(id, kid)
			r.Reason = "stolen"
			if got := f.callAll(t, f.conn, "authorization", "Bearer "+token); got != sts.WriteAccess {
				t.Fatalf("before: %v", got)
			}
			if _, err := f.service.Revoke(t.Context(), by, r); err != nil {
				t.Fatal(err)
			}
			if got := f.callAll(t, f.conn, "authorization", "Bearer "+token); got != sts.NoAccess {
				t.Errorf("over gRPC it may %v", got)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+"/v1/keys", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("over REST: %s", resp.Status)
			}
			records := f.audit.all()
			last := records[len(records)-1]
			if last.Event != sts.EventAdmin || last.Outcome != "deny" || last.Admin.By.Token != id && name != "its key" || last.Admin.By.Name != "" {
				t.Errorf("recorded as %+v", last.Admin)
			}
		})
	}
}
