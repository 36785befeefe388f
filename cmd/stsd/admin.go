package main

import (
	"fmt"
	"path/filepath"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts"
	"github.com/workload-sts/sts/sts/server"
)

// adminSocketName is the file of the admin socket where none is named.
const adminSocketName = "admin.sock"

// admin checks who may use the admin interface and fills in defaults. Without a
// socket its path is empty.
func (k configCheck) admin(c *stsv1.ServerConfig) {
	c.Admin = orEmpty(c.Admin)
	k.adminSocket(c)
	for i, a := range c.Admin.Clients {
		path := fmt.Sprintf("admin.clients[%d]", i)
		k.oneOf(path+".access", &a.Access, "read", "write")
		if _, err := certificateName(a.GetSanDns(), a.GetSanUri(), "the administrator"); err != nil {
			k.report(path, err.Error())
		}
	}
	// Without authorities anybody would be vouched for by nobody: refuse to start
	// rather than to serve administrators that can never be known.
	if len(c.Admin.Clients) > 0 && !vouched(c.Http) && !vouched(c.Grpc) {
		k.report("admin.clients", "needs tls.client_certificates of a listener, with the authorities that issue the certificates of administrators")
	}
	if c.Admin.TokenFile != "" {
		files, missing := k.noting()
		c.Admin.TokenFile = files.existingFile("admin.token_file", c.Admin.TokenFile)
		if !*missing {
			if err := server.CheckAdminToken(c.Admin.TokenFile); err != nil {
				k.report("admin.token_file", err.Error())
			}
		}
	}
}

func (k configCheck) adminSocket(c *stsv1.ServerConfig) {
	s := orEmpty(c.Admin.Socket)
	named := s.Path != ""
	switch {
	case s.Disabled && (named || len(s.Uids)+len(s.Gids) > 0):
		k.report("admin.socket.disabled", "is set beside other keys of admin.socket; leave one of them out")
	case !s.Disabled && !named && c.Storage.BoltFile != "":
		s.Path = filepath.Join(filepath.Dir(c.Storage.BoltFile), adminSocketName)
	}
	if s.Disabled {
		s.Path = ""
	}
	if s.Path != "" {
		s.Path = k.absolute(s.Path)
		if err := server.CheckSocketPath(s.Path); err != nil {
			k.report("admin.socket.path", err.Error())
		}
	}
	for key, ids := range map[string][]int64{"uids": s.Uids, "gids": s.Gids} {
		for i, id := range ids {
			if id < 0 || id >= 1<<32-1 {
				k.report(fmt.Sprintf("admin.socket.%s[%d]", key, i), "is not the number of a user or group")
			}
		}
	}
	c.Admin.Socket = s
}

// vouched tells whether there are authorities of certificates on a listener.
func vouched(l *stsv1.Listener) bool {
	c := l.GetTls().GetClientCertificates()
	return c.GetCaFile() != "" || len(c.GetSpiffeBundles()) > 0
}

// adminConfig is for the server. The configuration has been checked.
func adminConfig(c *stsv1.AdminConfig) server.AdminConfig {
	out := server.AdminConfig{UIDs: c.Socket.Uids, GIDs: c.Socket.Gids, TokenFile: c.TokenFile}
	for _, a := range c.Clients {
		name, err := certificateName(a.GetSanDns(), a.GetSanUri(), "the administrator")
		if err != nil {
			panic(err) // checked by loadConfig
		}
		client := server.AdminClient{Name: name, Label: a.GetSanDns() + a.GetSanUri(), Access: sts.ReadAccess}
		if a.Access == "write" {
			client.Access = sts.WriteAccess
		}
		out.Clients = append(out.Clients, client)
	}
	return out
}

// administrable tells whether anybody can be an administrator.
func (n *node) administrable(c *stsv1.ServerConfig) bool {
	return c.Admin.Socket.Path != "" || len(c.Admin.Clients) > 0 || c.Admin.TokenFile != "" || n.service.HasAudience(n.service.AdminAudience())
}
